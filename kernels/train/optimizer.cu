// The optimizer: Muon for matrices, AdamW for the rest. All numbers f32 but the sums of squares.
//
//   train_square     partial[block] = Σ over its numbers of g²                   partial f64 [blocks]
//   train_adamw      m = β₁ m + (1 − β₁) g', v = β₂ v + (1 − β₂) g'², g' = clip · g;
//                    p = kept · p − rate · m / (sqrt(v · root) + 1e-8); g = 0
//   train_momentum   m = µ m + (1 − µ) g, x = µ m + (1 − µ) g; g = 0; partial[matrix][block] = Σ x²
//   train_unit       x = x / (sqrt(Σ partial) + 1e-7)
//   train_scaled     y = scale · x
//   train_move       p = kept · p − rate · x
//
// train_momentum, train_unit and train_move work on matrices of one size: x [matrices, size]; where the others of a
// matrix begin in p, g and m stands in a table, i64 [matrices]. What lies between train_unit and train_move, the
// Newton–Schulz iterations, is products (gemm.cu).
//
// Blocks of 256 threads; any number of them, a thread takes every so manieth number: (blocks) or (blocks, matrices),
// blocks ≤ 256 for train_momentum. Sums are made in the order of the grid, so that a run repeats to the bit.
// Sources: arXiv 2502.16982 (Muon), 1711.05101 (AdamW). CPU twins: src/engine/train/{optimizer,muon}.rs.
#include "../warps.cuh"

// The numbers of a step: `Update` in src/engine/train/optimizer.rs. The last two are for matrices.
struct TrainUpdate {
    float clip, beta1, beta2, rate, root, kept, momentum, plain_rate;
};

namespace train_optimizer {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / LANES;
// Keep divisions by what may be zero.
constexpr float LEAST_ROOT = 1e-8f;
constexpr float LEAST_NORM = 1e-7f;

// Returns the sum over the block to its first thread.
template <class Number>
__device__ __forceinline__ Number block_sum(Number value) {
    __shared__ Number of_warps[WARPS];
    value = warp_sum(value);
    if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = value;
    __syncthreads();
    Number sum = 0;
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < WARPS; ++warp) sum += of_warps[warp];
    }
    return sum;
}

__device__ __forceinline__ long long first() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}

__device__ __forceinline__ long long step() { return static_cast<long long>(gridDim.x) * THREADS; }

}  // namespace train_optimizer

extern "C" __global__ void __launch_bounds__(train_optimizer::THREADS)
    train_square(double* partial, const float* g, long long count) {
    using namespace train_optimizer;
    double sum = 0.0;
    for (long long i = first(); i < count; i += step()) sum += static_cast<double>(g[i]) * g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(train_optimizer::THREADS)
    train_adamw(float* p, float* g, float* m, float* v, long long count, TrainUpdate u) {
    using namespace train_optimizer;
    for (long long i = first(); i < count; i += step()) {
        const float gradient = g[i] * u.clip;
        const float first_moment = u.beta1 * m[i] + (1.0f - u.beta1) * gradient;
        const float second_moment = u.beta2 * v[i] + (1.0f - u.beta2) * gradient * gradient;
        g[i] = 0.0f;
        m[i] = first_moment;
        v[i] = second_moment;
        p[i] = p[i] * u.kept - u.rate * first_moment / (sqrtf(second_moment * u.root) + LEAST_ROOT);
    }
}

extern "C" __global__ void __launch_bounds__(train_optimizer::THREADS)
    train_momentum(float* x, float* partial, float* g, float* m, const long long* g_at, const long long* m_at,
                   long long size, float momentum) {
    using namespace train_optimizer;
    const int matrix = blockIdx.y;
    x += matrix * size, g += g_at[matrix], m += m_at[matrix];
    float sum = 0.0f;
    for (long long i = first(); i < size; i += step()) {
        const float gradient = g[i];
        const float moment = momentum * m[i] + (1.0f - momentum) * gradient;
        const float next = momentum * moment + (1.0f - momentum) * gradient;
        g[i] = 0.0f;
        m[i] = moment;
        x[i] = next;
        sum += next * next;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[matrix * gridDim.x + blockIdx.x] = sum;
}

// The grid is that of train_momentum.
extern "C" __global__ void __launch_bounds__(train_optimizer::THREADS)
    train_unit(float* x, const float* partial, long long size) {
    using namespace train_optimizer;
    const int matrix = blockIdx.y;
    __shared__ float scale;
    const float sum = block_sum(threadIdx.x < gridDim.x ? partial[matrix * gridDim.x + threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) scale = 1.0f / (sqrtf(sum) + LEAST_NORM);
    __syncthreads();
    x += matrix * size;
    for (long long i = first(); i < size; i += step()) x[i] *= scale;
}

extern "C" __global__ void __launch_bounds__(train_optimizer::THREADS)
    train_scaled(float* y, const float* x, long long count, float scale) {
    using namespace train_optimizer;
    for (long long i = first(); i < count; i += step()) y[i] = scale * x[i];
}

extern "C" __global__ void __launch_bounds__(train_optimizer::THREADS)
    train_move(float* p, const float* x, const long long* p_at, long long size, float kept, float rate) {
    using namespace train_optimizer;
    const int matrix = blockIdx.y;
    x += matrix * size, p += p_at[matrix];
    for (long long i = first(); i < size; i += step()) p[i] = p[i] * kept - rate * x[i];
}
