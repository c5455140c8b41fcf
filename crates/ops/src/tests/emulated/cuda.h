// What the kernels' CUDA C++ wants of CUDA, on a host: names, bfloat16, barriers, and wmma.
//
// A fragment is the whole matrix in each unit of a warp, so that only its layout over the lanes,
// which the hardware keeps to itself, is not as on a GPU. Its calls meet at a warp's barrier, and
// check what the hardware demands of addresses and strides.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <functional>
#include <tuple>
#include <type_traits>
#include <vector>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__
#define __align__(bytes)
#define __launch_bounds__(units)
#define __grid_constant__
#define __syncthreads cube_barrier

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim, blockDim;
static void cube_barrier();
static void warp_barrier();

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) {
        uint32_t word;
        std::memcpy(&word, &value, 4);
        bits = (word + 0x7fff + (word >> 16 & 1)) >> 16;
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

static void demand(const void *at, unsigned stride, unsigned multiple) {
    if (uintptr_t(at) % 32 != 0 || stride % multiple != 0) {
        std::fprintf(stderr, "a fragment at %p with stride %u\n", at, stride);
        std::exit(3);
    }
}

template <int M, int N, int K, class T>
void fill_fragment(fragment<accumulator, M, N, K, T> &to, float value) {
    for (auto &row : to.values)
        for (float &v : row) v = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout> &to, const T *from, unsigned stride) {
    demand(from, stride, 8);
    warp_barrier();
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            to.values[i][j] = std::is_same<Layout, row_major>::value ? from[i * stride + j] : from[j * stride + i];
    warp_barrier();
}

template <int M, int N, int K>
void load_matrix_sync(fragment<accumulator, M, N, K, float> &to, const float *from, unsigned stride, layout_t) {
    demand(from, stride, 4);
    warp_barrier();
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to.values[i][j] = from[i * stride + j];
    warp_barrier();
}

template <int M, int N, int K>
void store_matrix_sync(float *to, const fragment<accumulator, M, N, K, float> &from, unsigned stride, layout_t) {
    demand(to, stride, 4);
    warp_barrier();
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to[i * stride + j] = from.values[i][j];
    warp_barrier();
}

template <int M, int N, int K, class A, class B>
void mma_sync(fragment<accumulator, M, N, K, float> &d, const A &a, const B &b,
              const fragment<accumulator, M, N, K, float> &c) {
    auto sums = c;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            for (int k = 0; k < 16; k++) sums.values[i][j] += a.values[i][k] * b.values[k][j];
    d = sums;
}
} // namespace wmma
} // namespace nvcuda
