// How many products tensor cores make, with all operands in registers: what kernels are held against.
//
//   peak_s8, peak_bf16   out[thread] = what eight chains of `turns` matrix instructions add up to
//
// Grid: as many blocks as keep every multiprocessor busy; block: 256. A warp makes 8 · turns instructions of
// 16 · 8 · 32 products (s8) or 16 · 8 · 16 (bf16). CPU twin: src/engine/ops/peak.rs.
#include "primitives.cuh"

namespace peak {

// Chains that do not wait for one another hide the instruction's latency.
constexpr int CHAINS = 8;

template <class Sum, class Multiply>
__device__ __forceinline__ void multiply(Sum* out, int turns, Multiply once) {
    Sum sums[CHAINS][4] = {};
    const uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {threadIdx.x, 5};
    for (int turn = 0; turn < turns; turn++) {
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) once(sums[chain], a, b);
    }
    Sum all = 0;
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain++) all += sums[chain][0] + sums[chain][1] + sums[chain][2] + sums[chain][3];
    out[static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x] = all;
}

}  // namespace peak

extern "C" __global__ void __launch_bounds__(256) peak_s8(int* out, int turns) {
    peak::multiply(out, turns, [](int(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) { mma_s8(d, a, b); });
}

extern "C" __global__ void __launch_bounds__(256) peak_bf16(float* out, int turns) {
    peak::multiply(out, turns, [](float(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) { mma_bf16(d, a, b); });
}
