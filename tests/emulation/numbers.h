// Half and bfloat16, rounded to nearest even, and the functions of numbers that C++ has not.
#pragma once
#include <math.h>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

inline uint32_t bits_of(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return word;
}
inline float of_bits(uint32_t word) {
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) {
        uint32_t word = bits_of(value);
        bits = value != value ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
    }
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    explicit __nv_bfloat16(T value) : __nv_bfloat16(float(value)) {}
    __nv_bfloat16(int value) : __nv_bfloat16(float(value)) {}
    __nv_bfloat16(double value) : __nv_bfloat16(float(value)) {}
    operator float() const { return of_bits(uint32_t(bits) << 16); }
};

struct __half {
    uint16_t bits;
    __half() = default;
    __half(float value) {
        _Float16 half = value;
        std::memcpy(&bits, &half, 2);
    }
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    explicit __half(T value) : __half(float(value)) {}
    __half(int value) : __half(float(value)) {}
    __half(double value) : __half(float(value)) {}
    operator float() const {
        _Float16 half;
        std::memcpy(&half, &bits, 2);
        return half;
    }
};

#define OF_HALVES(T)                                                                                     \
    inline T operator+(T a, T b) { return float(a) + float(b); }                                         \
    inline T operator-(T a, T b) { return float(a) - float(b); }                                         \
    inline T operator*(T a, T b) { return float(a) * float(b); }                                         \
    inline T operator/(T a, T b) { return float(a) / float(b); }                                         \
    inline T operator-(T a) { return -float(a); }                                                        \
    inline bool operator==(T a, T b) { return float(a) == float(b); }                                    \
    inline bool operator!=(T a, T b) { return float(a) != float(b); }                                    \
    inline bool operator<(T a, T b) { return float(a) < float(b); }                                      \
    inline bool operator<=(T a, T b) { return float(a) <= float(b); }                                    \
    inline bool operator>(T a, T b) { return float(a) > float(b); }                                      \
    inline bool operator>=(T a, T b) { return float(a) >= float(b); }                                    \
    inline T &operator+=(T &a, T b) { return a = a + b; }                                                \
    inline T __hmin(T a, T b) { return fminf(a, b); }                                                    \
    inline T __hmax(T a, T b) { return fmaxf(a, b); }                                                    \
    inline T __habs(T a) { return fabsf(a); }                                                            \
    inline bool __hisnan(T a) { return float(a) != float(a); }                                           \
    inline bool __hisinf(T a) { return fabsf(a) == INFINITY; }                                           \
    inline T hexp(T a) { return expf(a); }                                                               \
    inline T hlog(T a) { return logf(a); }                                                               \
    inline T hsin(T a) { return sinf(a); }                                                               \
    inline T hcos(T a) { return cosf(a); }                                                               \
    inline T htanh(T a) { return tanhf(a); }                                                             \
    inline T hsqrt(T a) { return sqrtf(a); }                                                             \
    inline T hrsqrt(T a) { return 1 / sqrtf(a); }                                                        \
    inline T hceil(T a) { return ceilf(a); }                                                             \
    inline T hfloor(T a) { return floorf(a); }                                                           \
    inline T htrunc(T a) { return truncf(a); }                                                           \
    inline T hrint(T a) { return rintf(a); }
OF_HALVES(__nv_bfloat16)
OF_HALVES(__half)

// Two at a time, each as it is alone.
template <class T> struct alignas(4) Pair {
    T x, y;
    Pair() = default;
    Pair(T x, T y) : x(x), y(y) {}
    explicit Pair(float v) : x(v), y(v) {}
};
using __nv_bfloat162 = Pair<__nv_bfloat16>;
using __half2 = Pair<__half>;
#define OF_PAIRS(name, one)                                                                              \
    template <class T> Pair<T> name(Pair<T> a) { return {one(a.x), one(a.y)}; }
#define OF_TWO_PAIRS(name, one)                                                                          \
    template <class T> Pair<T> name(Pair<T> a, Pair<T> b) { return {one(a.x, b.x), one(a.y, b.y)}; }
OF_PAIRS(h2exp, hexp)
OF_PAIRS(h2log, hlog)
OF_PAIRS(h2sin, hsin)
OF_PAIRS(h2cos, hcos)
OF_PAIRS(h2tanh, htanh)
OF_PAIRS(h2sqrt, hsqrt)
OF_PAIRS(h2rsqrt, hrsqrt)
OF_PAIRS(h2ceil, hceil)
OF_PAIRS(h2floor, hfloor)
OF_PAIRS(h2trunc, htrunc)
OF_PAIRS(h2rint, hrint)
OF_PAIRS(__habs2, __habs)
OF_PAIRS(operator-, operator-)
OF_TWO_PAIRS(operator+, operator+)
OF_TWO_PAIRS(operator-, operator-)
OF_TWO_PAIRS(operator*, operator*)
OF_TWO_PAIRS(operator/, operator/)
OF_TWO_PAIRS(__hmin2, __hmin)
OF_TWO_PAIRS(__hmax2, __hmax)

inline float rsqrt(float a) { return 1 / sqrtf(a); }
inline double rsqrt(double a) { return 1 / sqrt(a); }
inline float rhypotf(float a, float b) { return 1 / hypotf(a, b); }
inline int __popc(uint32_t a) { return __builtin_popcount(a); }
inline int __popcll(uint64_t a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(a); }
inline int __clzll(long long a) { return a == 0 ? 64 : __builtin_clzll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint64_t(a) * b >> 32; }
inline int32_t __mulhi(int32_t a, int32_t b) { return int64_t(a) * b >> 32; }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return (unsigned __int128)a * b >> 64; }
inline uint32_t __brev(uint32_t a) {
    uint32_t reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (a >> i & 1) << (31 - i);
    return reversed;
}
template <class T> std::enable_if_t<std::is_integral<T>::value, T> min(T a, T b) { return b < a ? b : a; }
template <class T> std::enable_if_t<std::is_integral<T>::value, T> max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
