// The trainer's gated activations, routing to experts, and their gradients, beside the products. All numbers f32,
// row-major; g and u are the halves of a row [g | u] of gate_up [rows or slots, 2 · width].
//
//   train_swiglu            activated = silu(g) · u                          activated [rows, width]
//   train_swiglu_experts    activated = silu(g) · u · weight of the slot     slots for rows
//   train_swiglu_backward   g, u = their gradients, given dactivated
//   train_experts_backward  given the gradient of what train_swiglu_experts made: dweight = Σ silu(g) · u · dactivated,
//                           activated = silu(g) · u · weight once more, g, u = their gradients
//   train_route             scores = sigmoid(scores); chosen = the k largest scores + bias, best first, of equal ones
//                           the first expert; weight = s / (Σ s + 1e-20) · scale
//   train_slot_weights      slot_weights[slot_of[i]] = weights[i]
//   train_combine           y[row] += slots[slot_of[row, j]], one j after the other
//   train_route_backward    dlogits = the gradient of the logits, given dweight of every slot; 0 where not chosen
//
// scores, dlogits [n, experts], bias [experts], chosen, weights, slot_of [n, k]; route_sort of route.cu sorts the
// slots, n · k of them: slots [n · k, hidden], slot_weights, dweight [n · k]. Any sizes, but k is at most 32 and
// experts. No output is an input or another output.
//
// Blocks have 256 threads. Grids:
//   train_swiglu            rows                  train_swiglu_backward   rows
//   train_swiglu_experts    slots                 train_experts_backward  ceil(slots / 8), a warp for a slot
//   train_route             ceil(n / 8)           train_route_backward    ceil(n / 8), a warp for a row
//   train_combine           n                     train_slot_weights      ceil(count / 256)
//
// The order of every sum is that of the shapes. CPU twins: src/engine/ops/{swiglu,route}.rs,
// src/engine/train/experts.rs.
#include "../warps.cuh"

namespace train_experts {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / LANES;
// Keeps the division of weights that are all zero a number.
constexpr float LEAST_SUM = 1e-20f;

__device__ __forceinline__ int warp() { return threadIdx.x / LANES; }

__device__ __forceinline__ int lane() { return threadIdx.x % LANES; }

// Writes one row of silu(g) · u · weight.
__device__ __forceinline__ void activate(
    float* __restrict__ activated, const float* __restrict__ gate_up, float weight, int row, int width) {
    const float* gate = gate_up + static_cast<size_t>(row) * 2 * width;
    float* out = activated + static_cast<size_t>(row) * width;
#pragma unroll 4
    for (int i = threadIdx.x; i < width; i += THREADS) out[i] = gate[i] * sigmoid(gate[i]) * gate[width + i] * weight;
}

// Replaces a gate and its up by their gradients and returns silu(gate) · up.
__device__ __forceinline__ float replace(float& gate, float& up, float dactivated) {
    const float g = gate, u = up, s = sigmoid(g), silu = g * s;
    gate = dactivated * u * (s + silu * (1.0f - s));
    up = dactivated * silu;
    return silu * u;
}

// An expert and its rank among the others.
struct Candidate {
    float rank;
    int expert;

    // Of equal ranks the first expert is before.
    __device__ __forceinline__ bool is_before(const Candidate& other) const {
        return rank > other.rank || (rank == other.rank && expert < other.expert);
    }
};

// Returns to every lane the first of all lanes' candidates.
__device__ __forceinline__ Candidate first_of_warp(Candidate best) {
    for (int apart = LANES / 2; apart > 0; apart /= 2) {
        const Candidate other{
            __shfl_xor_sync(ALL_LANES, best.rank, apart), __shfl_xor_sync(ALL_LANES, best.expert, apart)};
        if (other.is_before(best)) best = other;
    }
    return best;
}

}  // namespace train_experts

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_swiglu(
    float* __restrict__ activated, const float* __restrict__ gate_up, int rows, int width) {
    const int row = blockIdx.x;
    if (row >= rows) return;
    train_experts::activate(activated, gate_up, 1.0f, row, width);
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_swiglu_experts(
    float* __restrict__ activated, const float* __restrict__ gate_up, const float* __restrict__ slot_weights,
    int slots, int width) {
    const int slot = blockIdx.x;
    if (slot >= slots) return;
    train_experts::activate(activated, gate_up, slot_weights[slot], slot, width);
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_swiglu_backward(
    float* __restrict__ gate_up, const float* __restrict__ dactivated, int rows, int width) {
    using namespace train_experts;
    const int row = blockIdx.x;
    if (row >= rows) return;
    float* gate = gate_up + static_cast<size_t>(row) * 2 * width;
    const float* d = dactivated + static_cast<size_t>(row) * width;
#pragma unroll 4
    for (int i = threadIdx.x; i < width; i += THREADS) replace(gate[i], gate[width + i], d[i]);
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_experts_backward(
    float* __restrict__ gate_up, float* __restrict__ activated, const float* __restrict__ dactivated,
    const float* __restrict__ slot_weights, float* __restrict__ dweight, int slots, int width) {
    using namespace train_experts;
    const int slot = blockIdx.x * WARPS + warp();
    if (slot >= slots) return;
    float* gate = gate_up + static_cast<size_t>(slot) * 2 * width;
    float* out = activated + static_cast<size_t>(slot) * width;
    const float* d = dactivated + static_cast<size_t>(slot) * width;
    const float weight = slot_weights[slot];
    float sum = 0.0f;
#pragma unroll 4
    for (int i = lane(); i < width; i += LANES) {
        const float unweighed = replace(gate[i], gate[width + i], d[i] * weight);
        out[i] = unweighed * weight;
        sum += unweighed * d[i];
    }
    sum = warp_sum(sum);
    if (lane() == 0) dweight[slot] = sum;
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_route(
    int* __restrict__ chosen, float* __restrict__ weights, float* scores, const float* __restrict__ bias, int n,
    int experts, int k, float scale) {
    using namespace train_experts;
    const int row = blockIdx.x * WARPS + warp();
    if (row >= n) return;
    float* of_row = scores + static_cast<size_t>(row) * experts;
    // A lane reads what it wrote itself.
    for (int expert = lane(); expert < experts; expert += LANES) of_row[expert] = sigmoid(of_row[expert]);
    // Lane j keeps the j-th chosen.
    int my_expert = 0;
    float my_score = 0.0f, sum = 0.0f;
    Candidate last{-minus_infinity(), -1};
    for (int j = 0; j < k; ++j) {
        // When nothing is left it is the first expert.
        Candidate best{minus_infinity(), 0};
        for (int expert = lane(); expert < experts; expert += LANES) {
            const Candidate candidate{of_row[expert] + bias[expert], expert};
            if (candidate.rank > best.rank && last.is_before(candidate)) best = candidate;
        }
        last = first_of_warp(best);
        // Every lane's own, and of those the one of the lane that has the chosen.
        const float own = last.expert % LANES == lane() ? of_row[last.expert] : 0.0f;
        const float score = __shfl_sync(ALL_LANES, own, last.expert % LANES);
        sum += score;
        if (lane() == j) my_expert = last.expert, my_score = score;
    }
    if (lane() >= k) return;
    const size_t place = static_cast<size_t>(row) * k + lane();
    chosen[place] = my_expert;
    weights[place] = my_score / (sum + LEAST_SUM) * scale;
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_slot_weights(
    float* __restrict__ slot_weights, const float* __restrict__ weights, const int* __restrict__ slot_of, int count) {
    const int i = blockIdx.x * train_experts::THREADS + threadIdx.x;
    if (i < count) slot_weights[slot_of[i]] = weights[i];
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_combine(
    float* __restrict__ y, const float* __restrict__ slots, const int* __restrict__ slot_of, int n, int k,
    int hidden) {
    const int row = blockIdx.x;
    if (row >= n) return;
    const int* of_row = slot_of + static_cast<size_t>(row) * k;
    float* to = y + static_cast<size_t>(row) * hidden;
    for (int i = threadIdx.x; i < hidden; i += train_experts::THREADS) {
        float sum = to[i];
#pragma unroll 8
        for (int j = 0; j < k; ++j) sum += slots[static_cast<size_t>(of_row[j]) * hidden + i];
        to[i] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(train_experts::THREADS) train_route_backward(
    float* __restrict__ dlogits, const float* __restrict__ dweight, const int* __restrict__ slot_of,
    const int* __restrict__ chosen, const float* __restrict__ scores, int n, int experts, int k, float scale) {
    using namespace train_experts;
    const int row = blockIdx.x * WARPS + warp();
    if (row >= n) return;
    const size_t first = static_cast<size_t>(row) * k;
    const float* of_row = scores + static_cast<size_t>(row) * experts;
    // Lane j has the j-th chosen; every lane then sums in the order of j.
    const int my_expert = lane() < k ? chosen[first + lane()] : -1;
    const float my_score = lane() < k ? of_row[my_expert] : 0.0f;
    const float my_dweight = lane() < k ? dweight[slot_of[first + lane()]] : 0.0f;
    float sum = 0.0f, along = 0.0f;
    for (int j = 0; j < k; ++j) {
        const float score = __shfl_sync(ALL_LANES, my_score, j);
        sum += score;
        along += __shfl_sync(ALL_LANES, my_dweight, j) * score;
    }
    sum += LEAST_SUM;
    along /= sum;
    const float mine = (my_dweight - along) / sum * scale * my_score * (1.0f - my_score);
    // All lanes go through all lines of experts together, since they ask one another.
    for (int line = 0; line < experts; line += LANES) {
        const int expert = line + lane();
        float gradient = 0.0f;
        for (int j = 0; j < k; ++j) {
            const int of = __shfl_sync(ALL_LANES, my_expert, j);
            const float theirs = __shfl_sync(ALL_LANES, mine, j);
            if (of == expert) gradient = theirs;
        }
        if (expert < experts) dlogits[static_cast<size_t>(row) * experts + expert] = gradient;
    }
}
