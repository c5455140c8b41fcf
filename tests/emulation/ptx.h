// The PTX that kernels write inline: each instruction as a function of its operands, in their order.
//
// `asm.h` makes such calls of `asm`: the name is the instruction's with _ for what is no letter
// or digit, the first argument tells the place in the text. Which lane holds which number of a matrix
// is as the PTX manual draws it (9.7.14, "Matrix fragments for mma").
#pragma once
#include "barrier.h"
#include "numbers.h"
#include "units.h"
#include <cmath>

inline uint32_t __cvta_generic_to_shared(const void *at) {
    return static_cast<uint32_t>(static_cast<const char *>(at) - shared_memory);
}

// ------------------------------------------------------------------------- copies to shared memory

inline void copy_async(uint32_t to, const void *from, unsigned bytes, uint32_t read) {
    if (to % bytes != 0 || uintptr_t(from) % bytes != 0) fail("cp.async of %u bytes from %p to %u", bytes, from, to);
    begin_copy(shared_memory + to, static_cast<const char *>(from), bytes, read);
}
#define cp_async_cg_shared__cta_global(place, to, from, bytes, read) copy_async(to, from, bytes, read)
#define cp_async_ca_shared__cta_global(place, to, from, bytes, read) copy_async(to, from, bytes, read)
inline void cp_async_mbarrier_arrive_shared__cta_b64(int, uint32_t barrier) { await_copies(shared_memory + barrier); }

// ----------------------------------------------------------------------------------------- atomics

template <class T, class At> void atom_relaxed_add_f32(int, T &before, At at, T value) {
    before = *at;
    *const_cast<T *>(reinterpret_cast<const T *>(at)) = before + value;
}

// -------------------------------------------------------------------------------------- arithmetic

inline void ex2_approx_ftz_f32(int, float &power, float exponent) {
    power = std::exp2(exponent);
    if (power < 1.17549435e-38f) power = 0; // ftz
}

// ---------------------------------------------------------------------------------------- matrices

// What each lane gave, for the last of a warp to work with.
template <class Operands, class Work> void whole_warp(int place, Operands &own, Work work) {
    static Operands *lanes[WARP];
    lanes[current % WARP] = &own;
    warp_barrier(place, [&] { work(lanes); });
}

template <class T> float low(uint32_t pair) { // two halves in a register
    T value;
    value.bits = pair & 0xffff;
    return value;
}
template <class T> float high(uint32_t pair) {
    T value;
    value.bits = pair >> 16;
    return value;
}
inline float tf32(float value) { return of_bits(bits_of(value) & ~0x1fffu); }
inline float tf32(uint32_t value) { return tf32(of_bits(value)); }

// d = a·b + c of 16×8 sums in f32, over K. `put_a(operands, g, t, a)` and `put_b` place what lane
// 4·g + t holds.
template <int K, class Operands, class A, class B> void mma_16x8(int place, Operands &own, A put_a, B put_b) {
    whole_warp(place, own, [&](Operands **lanes) {
        float a[16][K], b[K][8];
        for (unsigned lane = 0; lane < WARP; lane++) {
            put_a(*lanes[lane], lane / 4, lane % 4, a);
            put_b(*lanes[lane], lane / 4, lane % 4, b);
        }
        for (unsigned lane = 0; lane < WARP; lane++)
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
                float sum = lanes[lane]->c[i];
                for (int k = 0; k < K; k++) sum += a[row][k] * b[k][column];
                lanes[lane]->d[i] = sum;
            }
    });
}
template <class R> struct Operands {
    R a[4], b[2];
    float c[4], d[4];
};
#define GIVE_SUMS d0 = own.d[0], d1 = own.d[1], d2 = own.d[2], d3 = own.d[3]

template <class R>
void mma_sync_aligned_m16n8k8_row_col_f32_tf32_tf32_f32(int place, float &d0, float &d1, float &d2, float &d3, R a0, R a1, R a2, R a3,
                                                        R b0, R b1, float c0, float c1, float c2, float c3) {
    Operands<R> own{{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}, {}};
    mma_16x8<8>(
        place, own,
        [](Operands<R> &it, int g, int t, float(&a)[16][8]) {
            for (int i = 0; i < 4; i++) a[g + i % 2 * 8][t + i / 2 * 4] = tf32(it.a[i]);
        },
        [](Operands<R> &it, int g, int t, float(&b)[8][8]) {
            for (int i = 0; i < 2; i++) b[t + i * 4][g] = tf32(it.b[i]);
        });
    GIVE_SUMS;
}

template <class T>
void mma_k16(int place, float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
             uint32_t b1, float c0, float c1, float c2, float c3) {
    Operands<uint32_t> own{{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}, {}};
    mma_16x8<16>(
        place, own,
        [](Operands<uint32_t> &it, int g, int t, float(&a)[16][16]) {
            for (int i = 0; i < 4; i++) {
                float *to = &a[g + i % 2 * 8][t * 2 + i / 2 * 8];
                to[0] = low<T>(it.a[i]), to[1] = high<T>(it.a[i]);
            }
        },
        [](Operands<uint32_t> &it, int g, int t, float(&b)[16][8]) {
            for (int i = 0; i < 2; i++) b[t * 2 + i * 8][g] = low<T>(it.b[i]), b[t * 2 + i * 8 + 1][g] = high<T>(it.b[i]);
        });
    GIVE_SUMS;
}
template <class T>
void mma_k8(int place, float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t b0, float c0, float c1, float c2,
            float c3) {
    Operands<uint32_t> own{{a0, a1}, {b0}, {c0, c1, c2, c3}, {}};
    mma_16x8<8>(
        place, own,
        [](Operands<uint32_t> &it, int g, int t, float(&a)[16][8]) {
            for (int i = 0; i < 2; i++) a[g + i * 8][t * 2] = low<T>(it.a[i]), a[g + i * 8][t * 2 + 1] = high<T>(it.a[i]);
        },
        [](Operands<uint32_t> &it, int g, int t, float(&b)[8][8]) {
            b[t * 2][g] = low<T>(it.b[0]), b[t * 2 + 1][g] = high<T>(it.b[0]);
        });
    GIVE_SUMS;
}
#define mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32 mma_k16<__nv_bfloat16>
#define mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32 mma_k16<__half>
#define mma_sync_aligned_m16n8k8_row_col_f32_bf16_bf16_f32 mma_k8<__nv_bfloat16>
#define mma_sync_aligned_m16n8k8_row_col_f32_f16_f16_f32 mma_k8<__half>

// N matrices of 8×8 halves, whose rows' addresses lanes 8·i to 8·i + 7 give.
template <int N, bool TRANSPOSED> void ldmatrix(int place, uint32_t (&to)[N], uint32_t at) {
    struct Own {
        uint32_t at, to[N];
    } own{at, {}};
    whole_warp(place, own, [](Own **lanes) {
        for (int i = 0; i < N; i++) {
            uint16_t m[8][8];
            for (int row = 0; row < 8; row++) {
                uint32_t at = lanes[i * 8 + row]->at;
                if (at % 16 != 0) fail("ldmatrix of a row at %u", at);
                const uint16_t *from = reinterpret_cast<const uint16_t *>(shared_memory + at);
                for (int column = 0; column < 8; column++) m[row][column] = from[column];
            }
            for (int lane = 0; lane < 32; lane++) {
                int g = lane / 4, t = lane % 4 * 2;
                uint16_t first = TRANSPOSED ? m[t][g] : m[g][t], second = TRANSPOSED ? m[t + 1][g] : m[g][t + 1];
                lanes[lane]->to[i] = first | uint32_t(second) << 16;
            }
        }
    });
    std::memcpy(to, own.to, sizeof to);
}
#define LDMATRIX(name, transposed)                                                                        \
    inline void ldmatrix_sync_aligned_m8n8_x1##name(int place, uint32_t &a, uint32_t at) {                \
        uint32_t to[1];                                                                                   \
        ldmatrix<1, transposed>(place, to, at);                                                           \
        a = to[0];                                                                                        \
    }                                                                                                     \
    inline void ldmatrix_sync_aligned_m8n8_x2##name(int place, uint32_t &a, uint32_t &b, uint32_t at) {   \
        uint32_t to[2];                                                                                   \
        ldmatrix<2, transposed>(place, to, at);                                                           \
        a = to[0], b = to[1];                                                                             \
    }                                                                                                     \
    inline void ldmatrix_sync_aligned_m8n8_x4##name(int place, uint32_t &a, uint32_t &b, uint32_t &c,     \
                                                    uint32_t &d, uint32_t at) {                           \
        uint32_t to[4];                                                                                   \
        ldmatrix<4, transposed>(place, to, at);                                                           \
        a = to[0], b = to[1], c = to[2], d = to[3];                                                       \
    }
LDMATRIX(_shared__cta_b16, false)
LDMATRIX(_trans_shared__cta_b16, true)
