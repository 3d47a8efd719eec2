// What kernels share of a warp: its lanes, and sums and maxima over them, in an order that is always the same.
#pragma once

#include "primitives.cuh"

constexpr int LANES = 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000u); }

__device__ __forceinline__ float sigmoid(float value) { return 1.0f / (1.0f + expf(-value)); }

// Returns the sum over a warp to every lane.
template <class Number>
__device__ __forceinline__ Number warp_sum(Number value) {
    for (int apart = LANES / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(ALL_LANES, value, apart);
    return value;
}

// Returns the largest of a warp to every lane.
__device__ __forceinline__ float warp_max(float value) {
    for (int apart = LANES / 2; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, apart));
    return value;
}
