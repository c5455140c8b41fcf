// What kernels' CUDA C++ wants of CUDA, on a host.
#pragma once
#include "units.h"
#include "numbers.h"
#include "warp.h"
#include "wmma.h"
#include "barrier.h"
#include "ptx.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(units)
#define __grid_constant__
#define __syncthreads() cube_barrier(__LINE__)
#define __threadfence()
const int warpSize = WARP;

// Units take turns only where they wait, so that whatever is between is atomic.
template <class T, class V> T atomicAdd(T *at, V value) { return std::exchange(*at, T(*at + value)); }
template <class T, class V> T atomicMin(T *at, V value) { return std::exchange(*at, T(value < *at ? value : *at)); }
template <class T, class V> T atomicMax(T *at, V value) { return std::exchange(*at, T(value > *at ? value : *at)); }
template <class T, class V> T atomicAnd(T *at, V value) { return std::exchange(*at, T(*at & value)); }
template <class T, class V> T atomicOr(T *at, V value) { return std::exchange(*at, T(*at | value)); }
template <class T, class V> T atomicXor(T *at, V value) { return std::exchange(*at, T(*at ^ value)); }
template <class T, class V> T atomicExch(T *at, V value) { return std::exchange(*at, T(value)); }
template <class T, class V> T atomicCAS(T *at, V expected, V value) {
    return *at == T(expected) ? std::exchange(*at, T(value)) : *at;
}
