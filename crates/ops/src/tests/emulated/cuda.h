// What the kernels' CUDA C++ wants of CUDA, on a host: names, bfloat16, barriers, and wmma.
//
// A fragment is the whole matrix, kept by the first unit of a warp, so that only its layout over the
// lanes, which the hardware keeps to itself, is not as on a GPU. A warp's calls meet at a barrier,
// must agree on address and stride, and check what the hardware demands of these.
#include <math.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __launch_bounds__(units)
#define __grid_constant__
#define __syncthreads() cube_barrier(__LINE__)

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) {
        uint32_t word;
        std::memcpy(&word, &value, 4);
        bits = value != value ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
    }
    __nv_bfloat16(int value) : __nv_bfloat16(float(value)) {}
    operator float() const {
        uint32_t word = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &word, 4);
        return value;
    }
};

namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = row_major> struct fragment {
    float values[16][16];
};

// A warp's call with a fragment and a matrix in memory: `work` gets the first unit's fragment.
template <class Fragment, class T, class Work>
void together(int line, Fragment &fragment, T *at, unsigned stride, unsigned multiple, Work work) {
    static Fragment *first;
    static T *place;
    static unsigned step;
    if (uintptr_t(at) % 32 != 0 || stride % multiple != 0) fail("a fragment at %p with stride %u", at, stride);
    bool begins = true; // whoever comes first says where
    unsigned start = current / WARP * WARP;
    for (unsigned other = start; other < start + WARP && other < units.size(); other++)
        begins = begins && (other == current || units[other].state != AT_WARP);
    if (begins) place = at, step = stride;
    if (place != at || step != stride) fail("a warp's units name different matrices");
    if (current == start) first = &fragment;
    warp_barrier(line, [&] { work(*first); });
}

template <int M, int N, int K, class T>
void fill_fragment(fragment<accumulator, M, N, K, T> &to, float value) {
    if (current % WARP == 0)
        for (auto &row : to.values)
            for (float &v : row) v = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_at(int line, fragment<Use, M, N, K, T, Layout> &to, const T *from, unsigned stride) {
    together(line, to, from, stride, 8, [=](auto &to) {
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++)
                to.values[i][j] =
                    std::is_same<Layout, row_major>::value ? from[i * stride + j] : from[j * stride + i];
    });
}

template <int M, int N, int K>
void load_at(int line, fragment<accumulator, M, N, K, float> &to, const float *from, unsigned stride, layout_t) {
    together(line, to, from, stride, 4, [=](auto &to) {
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++) to.values[i][j] = from[i * stride + j];
    });
}

template <int M, int N, int K>
void store_at(int line, float *to, const fragment<accumulator, M, N, K, float> &from, unsigned stride, layout_t) {
    together(line, from, to, stride, 4, [=](auto &from) {
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++) to[i * stride + j] = from.values[i][j];
    });
}

template <int M, int N, int K, class A, class B>
void mma_sync(fragment<accumulator, M, N, K, float> &d, const A &a, const B &b,
              const fragment<accumulator, M, N, K, float> &c) {
    if (current % WARP != 0) return;
    auto sums = c;
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 16; j++) sums.values[i][j] += a.values[i][k] * b.values[k][j];
    d = sums;
}
} // namespace wmma
} // namespace nvcuda
// Where a call stands in the program tells it from others.
#define load_matrix_sync(...) load_at(__LINE__, __VA_ARGS__)
#define store_matrix_sync(...) store_at(__LINE__, __VA_ARGS__)
