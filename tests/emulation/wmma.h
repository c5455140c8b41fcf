// nvcuda::wmma on whole matrices.
//
// A fragment is the whole matrix, kept by the first unit of a warp, so that only its layout over the
// lanes, which the hardware keeps to itself, is not as on a GPU. A warp's calls meet at a barrier,
// must agree on address and stride, and check what the hardware demands of these.
#pragma once
#include "numbers.h"
#include "units.h"

namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
namespace precision {
struct tf32 {};
} // namespace precision
enum layout_t { mem_row_major, mem_col_major };

inline float __float_to_tf32(float value) { return of_bits((bits_of(value) + 0x1000) & ~0x1fffu); }

// What lies in memory, and what a value is rounded to.
template <class T> struct Stored {
    typedef T Type;
    static float rounded(float value) { return T(value); }
};
template <> struct Stored<precision::tf32> {
    typedef float Type;
    // The hardware drops the bits that it does not read.
    static float rounded(float value) { return of_bits(bits_of(value) & ~0x1fffu); }
};

template <class Use, int M, int N, int K, class T, class Layout = row_major> struct fragment {
    static constexpr int rows = std::is_same<Use, matrix_b>::value ? K : M;
    static constexpr int columns = std::is_same<Use, matrix_a>::value ? K : N;
    static constexpr int num_elements = rows * columns;
    float x[num_elements];
    float &at(int i, int j) { return x[i * columns + j]; }
    float at(int i, int j) const { return x[i * columns + j]; }
};

// A warp's call with a fragment and a matrix in memory: `work` gets the first unit's fragment.
template <class Fragment, class T, class Work>
void together(int line, Fragment &fragment, T *at, unsigned stride, unsigned multiple, Work work) {
    static Fragment *first;
    static T *place;
    static unsigned step;
    if (uintptr_t(at) % 32 != 0 || stride * sizeof(T) % multiple != 0) fail("a fragment at %p with stride %u", at, stride);
    if (first_at_warp()) place = at, step = stride; // whoever comes first says where
    if (place != at || step != stride) fail("a warp's units name different matrices");
    if (current % WARP == 0) first = &fragment;
    warp_barrier(line, [&] { work(*first); });
}

template <class Fragment> void fill_fragment(Fragment &to, float value) {
    if (current % WARP == 0)
        for (float &v : to.x) v = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_at(int line, fragment<Use, M, N, K, T, Layout> &to, const typename Stored<T>::Type *from, unsigned stride) {
    together(line, to, from, stride, 16, [=](auto &to) {
        for (int i = 0; i < to.rows; i++)
            for (int j = 0; j < to.columns; j++) {
                bool by_row = std::is_same<Layout, row_major>::value;
                to.at(i, j) = Stored<T>::rounded(from[by_row ? i * stride + j : j * stride + i]);
            }
    });
}

template <int M, int N, int K, class T>
void load_at(int line, fragment<accumulator, M, N, K, T> &to, const T *from, unsigned stride, layout_t layout) {
    together(line, to, from, stride, 16, [=](auto &to) {
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) to.at(i, j) = from[layout == mem_row_major ? i * stride + j : j * stride + i];
    });
}

template <int M, int N, int K, class T>
void store_at(int line, T *to, const fragment<accumulator, M, N, K, T> &from, unsigned stride, layout_t layout) {
    together(line, from, to, stride, 16, [=](auto &from) {
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) to[layout == mem_row_major ? i * stride + j : j * stride + i] = from.at(i, j);
    });
}

template <int M, int N, int K, class T, class A, class B>
void mma_sync(fragment<accumulator, M, N, K, T> &d, const A &a, const B &b, const fragment<accumulator, M, N, K, T> &c) {
    if (current % WARP != 0) return;
    auto sums = c;
    for (int i = 0; i < M; i++)
        for (int k = 0; k < K; k++)
            for (int j = 0; j < N; j++) sums.at(i, j) += a.at(i, k) * b.at(k, j);
    for (float &v : sums.x) v = Stored<T>::rounded(v);
    d = sums;
}
} // namespace wmma
} // namespace nvcuda
// Where a call stands in the program tells it from others.
#define load_matrix_sync(...) load_at(__LINE__, __VA_ARGS__)
#ifndef FIRST_UNIT_STORES
#define store_matrix_sync(...) store_at(__LINE__, __VA_ARGS__)
#else // a fragment's store is a whole warp's; what one unit stores alone is undefined, and nobody reads it
#define store_matrix_sync(...) ((void)0)
#endif
