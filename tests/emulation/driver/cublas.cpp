// libcublas.so on a host: general products by plain loops, on the streams of the libcuda.so beside it.
//
// As on a GPU, matrices lie by columns, sums are f32, a product is done when its stream gets to it, and sizes that
// the manual forbids are refused. A matrix that is not within one allocation ends the program.
//
// EMULATED_CUBLAS=absent has no handle to give, as a library too new for its driver; =wrong multiplies wrongly;
// =early multiplies as soon as its stream may, not as late.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14 }; // cudaDataType
enum { COMPUTE_32F = 68 };   // cublasComputeType_t
enum { NORMAL = 0, TRANSPOSED = 1 };

struct Stream;
extern "C" void emulated_needs(const char *what, uint64_t at, uint64_t bytes);
extern "C" void emulated_enqueue(Stream *stream, void (*work)(void *), void *with, const char *name, bool early);

static bool told(const char *what) {
    const char *value = std::getenv("EMULATED_CUBLAS");
    return value && std::strcmp(value, what) == 0;
}

struct Handle {
    Stream *stream = nullptr;
};

struct Matrices {
    char *at;
    int type, operation, leading;
    long long apart;

    uint64_t bytes() const { return type == F32 ? 4 : 2; }
    // Value (i, j) of what the operation makes of matrix b.
    char *value(long long b, int i, int j) const {
        int64_t row = operation == NORMAL ? i : j, column = operation == NORMAL ? j : i;
        return at + (b * apart + column * leading + row) * bytes();
    }
    float read(long long b, int i, int j) const {
        if (type == F32) return *reinterpret_cast<float *>(value(b, i, j));
        uint32_t bits = uint32_t(*reinterpret_cast<uint16_t *>(value(b, i, j))) << 16;
        float f;
        std::memcpy(&f, &bits, 4);
        return f;
    }
    void write(long long b, int i, int j, float f) const {
        if (type == F32) {
            *reinterpret_cast<float *>(value(b, i, j)) = f;
            return;
        }
        uint32_t bits;
        std::memcpy(&bits, &f, 4);
        uint16_t rounded = std::isnan(f) ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        *reinterpret_cast<uint16_t *>(value(b, i, j)) = rounded;
    }
    // Whether rows by columns of what the operation makes can lie so.
    bool fits(int rows, int columns) const { return leading >= (operation == NORMAL ? rows : columns) && leading > 0; }
    void check(int rows, int columns, int count) const {
        if (rows > 0 && columns > 0 && count > 0)
            emulated_needs("cublasGemmEx", uint64_t(at), value(count - 1, rows - 1, columns - 1) + bytes() - at);
    }
};

struct Product {
    int m, n, k, count;
    float alpha, beta;
    Matrices a, b, c;
};

static void multiply(void *given) {
    std::unique_ptr<Product> it(static_cast<Product *>(given));
    bool wrong = told("wrong");
    for (int batch = 0; batch < it->count; batch++)
        for (int j = 0; j < it->n; j++)
            for (int i = 0; i < it->m; i++) {
                float sum = 0;
                for (int l = 0; l < it->k; l++) sum += it->a.read(batch, i, l) * it->b.read(batch, l, j);
                // What c was does not matter where beta is 0, not even if it is no number.
                float old = it->beta == 0 ? 0 : it->beta * it->c.read(batch, i, j);
                it->c.write(batch, i, j, it->alpha * sum + old + (wrong && i + j == 0 ? 1 : 0));
            }
}

extern "C" {
int cublasCreate_v2(Handle **to) {
    if (told("absent")) return NOT_INITIALIZED;
    *to = new Handle;
    return SUCCESS;
}
int cublasDestroy_v2(Handle *handle) {
    delete handle;
    return SUCCESS;
}
int cublasGetProperty(int which, int *value) {
    const int version[] = {12, 4, 5};
    if (which < 0 || which > 2) return INVALID_VALUE;
    *value = version[which];
    return SUCCESS;
}
int cublasSetStream_v2(Handle *handle, Stream *stream) {
    handle->stream = stream;
    return SUCCESS;
}
int cublasSetMathMode(Handle *, int) { return SUCCESS; }

int cublasGemmStridedBatchedEx(Handle *handle, int a_op, int b_op, int m, int n, int k, const float *alpha, char *a,
                               int a_type, int a_leading, long long a_apart, char *b, int b_type, int b_leading,
                               long long b_apart, const float *beta, char *c, int c_type, int c_leading,
                               long long c_apart, int count, int compute, int) {
    if (!handle) return NOT_INITIALIZED;
    bool types = a_type == b_type && (a_type == F32 || a_type == BF16) && (c_type == F32 || c_type == a_type);
    if (compute != COMPUTE_32F || !types) return NOT_SUPPORTED;
    if (m < 0 || n < 0 || k < 0 || count < 0 || a_op > TRANSPOSED || b_op > TRANSPOSED) return INVALID_VALUE;
    auto it = std::make_unique<Product>(Product{m, n, k, count, *alpha, *beta,
                                                {a, a_type, a_op, a_leading, a_apart},
                                                {b, b_type, b_op, b_leading, b_apart},
                                                {c, c_type, NORMAL, c_leading, c_apart}});
    if (!it->a.fits(m, k) || !it->b.fits(k, n) || !it->c.fits(m, n)) return INVALID_VALUE;
    it->a.check(m, k, count);
    it->b.check(k, n, count);
    it->c.check(m, n, count);
    emulated_enqueue(handle->stream, multiply, it.release(), "cublasGemmEx", told("early"));
    return SUCCESS;
}
int cublasGemmEx(Handle *handle, int a_op, int b_op, int m, int n, int k, const float *alpha, char *a, int a_type,
                 int a_leading, char *b, int b_type, int b_leading, const float *beta, char *c, int c_type,
                 int c_leading, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, a_op, b_op, m, n, k, alpha, a, a_type, a_leading, 0, b, b_type,
                                      b_leading, 0, beta, c, c_type, c_leading, 0, 1, compute, algorithm);
}
}
