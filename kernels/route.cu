// Routing of rows to experts, and the sum of what the experts made of them. All in f32.
//
//   route_scores  s = sigmoid(x·Wᵀ) or softmax(x·Wᵀ)          x [rows, hidden], W [experts, hidden], s [rows, experts]
//   route_pool    of a block's rows, −∞ for all experts but the `capacity` with the largest max (s + bias)
//   route_choose  r = s + bias; the groups stay whose two best r have the largest sum; of their experts the k largest r,
//                 best first; weight = s · scale, or s / (Σ s + 1e-20) · scale       chosen, weights [rows, k]
//   route_sort    slots by expert, of one expert by row: slot_row [slots], slot_of [rows, k], starts [experts + 1]
//   combine       x += shared + Σ weight · outputs[slot], the row's slots in their order        x, shared [rows, hidden]
//
// Of equal experts or groups the first wins. Limits: experts ≤ 256 and a multiple of groups, groups ≤ 64, k ≤ 16.
// All pointers are multiples of 16 bytes; any hidden. Blocks beyond `*rows` or `*block_count` return at once. Grids for
// the most rows; blocks of 256 threads but for route_choose:
//   route_scores  (ceil(rows / 4), tiles of experts): four rows share what is read of W. Any number of tiles gives the
//                 same bits, 16 experts a tile keep a GPU busy; for a softmax one tile, it needs the whole row
//   route_pool    most blocks          route_sort  experts          combine  rows
//   route_choose  ceil(rows / 4), 128 threads: a warp for a row
// Source: LLaDA2.0 report (arXiv 2512.15745), LLaDA2.2 report, equation 1; CPU twins: src/engine/ops/route.rs and
// `Routes`, `add_scaled` in src/engine/model/feed_forward.rs.
#include "warps.cuh"

struct RouteShape {
    int experts;
    int chosen;
    int groups;
    int kept_groups;
    // Whether the weights are divided by their sum.
    int normalise;
    float scale;
};

namespace route {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / LANES;
constexpr int MOST_EXPERTS = 256;
constexpr int MOST_GROUPS = 64;
constexpr int MOST_CHOSEN = 16;
// Numbers that a lane reads together: 16 bytes.
constexpr int FOUR = 4;
// Rows of a block of route_scores, and experts that a warp of it takes at a time: 8 sums a lane for 6 loads.
constexpr int SCORE_ROWS = 4;
constexpr int SCORE_EXPERTS = 2;
// Rows, and so warps, of a block of route_choose.
constexpr int CHOOSE_ROWS = 4;
// Neighbouring experts that a lane of route_choose holds.
constexpr int OF_LANE = MOST_EXPERTS / LANES;
// Keeps the division of weights that are all zero a number.
constexpr float LEAST_SUM = 1e-20f;

__device__ __forceinline__ float4 floats(const uint4& words) {
    return make_float4(
        __uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z), __uint_as_float(words.w));
}

// Reads four of a row's numbers; what is behind its width is zero.
template <bool is_whole>
__device__ __forceinline__ float4 load_four(const float* row, int at, int width) {
    if (is_whole) return *reinterpret_cast<const float4*>(row + at);
    return make_float4(
        row[at], at + 1 < width ? row[at + 1] : 0.0f, at + 2 < width ? row[at + 2] : 0.0f,
        at + 3 < width ? row[at + 3] : 0.0f);
}

// The same of a weight, which should not displace the rows in L1.
template <bool is_whole>
__device__ __forceinline__ float4 load_weights(const float* row, int at, int width) {
    if (is_whole) return floats(load_stream(reinterpret_cast<const uint4*>(row + at)));
    return load_four<false>(row, at, width);
}

__device__ __forceinline__ float add_product(float sum, const float4& a, const float4& b) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// Writes the scores of rows first_row.. and experts first..end, as sigmoids or still as products. A lane's sum takes
// every 32nd four, so it depends on hidden alone.
template <bool is_whole>
__device__ __forceinline__ void score(
    float* scores, const float* normed, const float* router, int first_row, int rows, int first, int end, int experts,
    int hidden, bool is_softmax) {
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    // What is not there is computed as the last that is, and not written.
    const float* x[SCORE_ROWS];
    for (int r = 0; r < SCORE_ROWS; ++r) x[r] = normed + static_cast<size_t>(min(first_row + r, rows - 1)) * hidden;
    for (int expert = first + warp * SCORE_EXPERTS; expert < end; expert += WARPS * SCORE_EXPERTS) {
        const float* weights[SCORE_EXPERTS];
        for (int e = 0; e < SCORE_EXPERTS; ++e) {
            weights[e] = router + static_cast<size_t>(min(expert + e, end - 1)) * hidden;
        }
        float sums[SCORE_EXPERTS][SCORE_ROWS] = {};
#pragma unroll 2
        for (int at = lane * FOUR; at < hidden; at += LANES * FOUR) {
            float4 w[SCORE_EXPERTS];
            for (int e = 0; e < SCORE_EXPERTS; ++e) w[e] = load_weights<is_whole>(weights[e], at, hidden);
            for (int r = 0; r < SCORE_ROWS; ++r) {
                const float4 of_row = load_four<is_whole>(x[r], at, hidden);
                for (int e = 0; e < SCORE_EXPERTS; ++e) sums[e][r] = add_product(sums[e][r], w[e], of_row);
            }
        }
        for (int e = 0; e < SCORE_EXPERTS; ++e) {
            for (int r = 0; r < SCORE_ROWS; ++r) {
                const float sum = warp_sum(sums[e][r]);
                if (lane == 0 && expert + e < end && first_row + r < rows) {
                    scores[static_cast<size_t>(first_row + r) * experts + expert + e] =
                        is_softmax ? sum : 1.0f / (1.0f + expf(-sum));
                }
            }
        }
    }
}

// Replaces a row by its softmax; a warp does it.
__device__ __forceinline__ void softmax(float* row, int experts, int lane) {
    float largest = minus_infinity();
    for (int expert = lane; expert < experts; expert += LANES) largest = fmaxf(largest, row[expert]);
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int expert = lane; expert < experts; expert += LANES) {
        row[expert] = expf(row[expert] - largest);
        sum += row[expert];
    }
    sum = warp_sum(sum);
    for (int expert = lane; expert < experts; expert += LANES) row[expert] /= sum;
}

// An integer that compares as the number does, with −0 below 0.
__device__ __forceinline__ int ordered(float value) {
    const int bits = __float_as_int(value);
    return bits ^ (bits < 0 ? 0x7FFFFFFF : 0);
}

// Returns to all lanes where the largest is when each lane offers its first largest and where it is, lower lanes
// lower places. A lane with nothing offers −∞ at 0, so when all do it is 0.
__device__ __forceinline__ int first_largest(float value, int at) {
    const float largest = warp_max(value);
    const int lane = __ffs(__ballot_sync(ALL_LANES, value == largest)) - 1;
    return __shfl_sync(ALL_LANES, at, lane);
}

// Returns the sum of a group's two best ranks.
__device__ __forceinline__ float strength(const float* ranks, int size) {
    float first = minus_infinity(), second = minus_infinity();
    for (int i = 0; i < size; ++i) {
        const float rank = ranks[i];
        if (rank > first) {
            second = first, first = rank;
        } else if (rank > second) {
            second = rank;
        }
    }
    return second == minus_infinity() ? first : first + second;
}

// Returns the kept groups as bits, from a row's ranks; a warp does it, a lane holds two neighbouring groups.
__device__ __forceinline__ unsigned long long kept(const float* ranks, const RouteShape& shape, int lane) {
    constexpr int GROUPS_OF_LANE = MOST_GROUPS / LANES;
    const int size = shape.experts / shape.groups;
    float strengths[GROUPS_OF_LANE];
    for (int i = 0; i < GROUPS_OF_LANE; ++i) {
        const int group = lane * GROUPS_OF_LANE + i;
        strengths[i] = group < shape.groups ? strength(ranks + group * size, size) : minus_infinity();
    }
    unsigned long long open = 0;
    for (int turn = 0; turn < shape.kept_groups; ++turn) {
        float best = minus_infinity();
        int at = 0;
        for (int i = 0; i < GROUPS_OF_LANE; ++i) {
            const int group = lane * GROUPS_OF_LANE + i;
            if ((open >> group & 1) == 0 && strengths[i] > best) best = strengths[i], at = group;
        }
        open |= 1ull << first_largest(best, at);
    }
    return open;
}

}  // namespace route

extern "C" __global__ void __launch_bounds__(route::THREADS) route_scores(
    float* scores, const float* normed, const float* router, const int* rows, int experts, int hidden,
    int is_softmax) {
    const int first_row = blockIdx.x * route::SCORE_ROWS;
    if (first_row >= *rows) return;
    const int tile = (experts + gridDim.y - 1) / gridDim.y;
    const int first = blockIdx.y * tile, end = min(first + tile, experts);
    if (hidden % route::FOUR == 0) {
        route::score<true>(
            scores, normed, router, first_row, *rows, first, end, experts, hidden, is_softmax != 0);
    } else {
        route::score<false>(
            scores, normed, router, first_row, *rows, first, end, experts, hidden, is_softmax != 0);
    }
    if (is_softmax == 0) return;
    // The products of a row were written by all warps.
    __syncthreads();
    const int warp = threadIdx.x / LANES, row = first_row + warp;
    if (warp >= route::SCORE_ROWS || row >= *rows) return;
    route::softmax(scores + static_cast<size_t>(row) * experts, experts, threadIdx.x % LANES);
}

// `blocks` [block_count + 1]: the first row of each block, and the end of the last.
extern "C" __global__ void __launch_bounds__(route::THREADS) route_pool(
    float* scores, const float* bias, const int* blocks, const int* block_count, int experts, int capacity) {
    const int block = blockIdx.x;
    if (block >= *block_count) return;
    const int first = blocks[block], end = blocks[block + 1], expert = threadIdx.x;
    __shared__ int ranks[route::MOST_EXPERTS];
    if (expert < experts) {
        float best = minus_infinity();
        for (int row = first; row < end; ++row) {
            best = fmaxf(best, scores[static_cast<size_t>(row) * experts + expert] + bias[expert]);
        }
        ranks[expert] = route::ordered(best);
    }
    __syncthreads();
    if (expert >= experts) return;
    int before = 0;
    for (int other = 0; other < experts; ++other) {
        const bool is_before = ranks[other] > ranks[expert] || (ranks[other] == ranks[expert] && other < expert);
        before += is_before ? 1 : 0;
    }
    if (before < capacity) return;
    for (int row = first; row < end; ++row) {
        scores[static_cast<size_t>(row) * experts + expert] = minus_infinity();
    }
}

extern "C" __global__ void __launch_bounds__(route::CHOOSE_ROWS * LANES) route_choose(
    int* chosen, float* weights, const float* scores, const float* bias, const int* rows, RouteShape shape) {
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int row = blockIdx.x * route::CHOOSE_ROWS + warp;
    if (row >= *rows) return;
    const float* of_row = scores + static_cast<size_t>(row) * shape.experts;
    const int size = shape.experts / shape.groups;
    // Neighbours on a lane: of equal experts the lowest lane then has the first.
    float ranks[route::OF_LANE];
    const int first = lane * route::OF_LANE;
#pragma unroll
    for (int i = 0; i < route::OF_LANE; ++i) {
        const int expert = first + i;
        ranks[i] = expert < shape.experts ? of_row[expert] + bias[expert] : minus_infinity();
    }
    if (shape.kept_groups != shape.groups) {
        __shared__ float shared_ranks[route::CHOOSE_ROWS][route::MOST_EXPERTS];
#pragma unroll
        for (int i = 0; i < route::OF_LANE; ++i) shared_ranks[warp][first + i] = ranks[i];
        __syncwarp();
        const unsigned long long open = route::kept(shared_ranks[warp], shape, lane);
#pragma unroll
        for (int i = 0; i < route::OF_LANE; ++i) {
            // Behind the last expert there is no group, and nothing to close.
            const int expert = min(first + i, shape.experts - 1);
            if ((open >> (expert / size) & 1) == 0) ranks[i] = minus_infinity();
        }
    }
    // Lane j keeps the j-th chosen.
    int my_expert = 0;
    float my_score = 0.0f, sum = 0.0f;
    for (int slot = 0; slot < shape.chosen; ++slot) {
        float best = minus_infinity();
        int at = 0;
#pragma unroll
        for (int i = 0; i < route::OF_LANE; ++i) {
            if (ranks[i] > best) best = ranks[i], at = first + i;
        }
        const int expert = route::first_largest(best, at);
        const float score = of_row[expert];
        sum += score;
        if (lane == slot) my_expert = expert, my_score = score;
#pragma unroll
        for (int i = 0; i < route::OF_LANE; ++i) {
            if (first + i == expert) ranks[i] = minus_infinity();
        }
    }
    if (lane >= shape.chosen) return;
    const float divisor = shape.normalise != 0 ? sum + route::LEAST_SUM : 1.0f;
    const size_t place = static_cast<size_t>(row) * shape.chosen + lane;
    chosen[place] = my_expert;
    weights[place] = my_score / divisor * shape.scale;
}

// A block counts what goes to experts before its own and so knows where its slots begin; no block waits for another.
extern "C" __global__ void __launch_bounds__(route::THREADS) route_sort(
    int* slot_row, int* slot_of, int* starts, const int* chosen, const int* rows, int k, int experts) {
    const int expert = blockIdx.x;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int count = *rows * k;
    // A warp takes neighbours, so that one barrier is enough to know where its slots begin.
    const int lines = (count + LANES - 1) / LANES;
    const int of_warp = (lines + route::WARPS - 1) / route::WARPS * LANES;
    const int first = warp * of_warp, end = min(first + of_warp, count);
    __shared__ int before[route::WARPS], own[route::WARPS];
    int is_before = 0, is_own = 0;
    for (int i = first + lane; i < end; i += LANES) {
        is_before += chosen[i] < expert ? 1 : 0;
        is_own += chosen[i] == expert ? 1 : 0;
    }
    is_before = warp_sum(is_before), is_own = warp_sum(is_own);
    if (lane == 0) before[warp] = is_before, own[warp] = is_own;
    __syncthreads();
    int start = 0, next = 0;
    for (int i = 0; i < route::WARPS; ++i) {
        start += before[i];
        next += i < warp ? own[i] : 0;
    }
    if (threadIdx.x == 0) {
        starts[expert] = start;
        if (expert == experts - 1) starts[experts] = count;
    }
    next += start;
    for (int line = first; line < end; line += LANES) {
        const int i = line + lane;
        const bool is_mine = i < end && chosen[i] == expert;
        const unsigned mine = __ballot_sync(ALL_LANES, is_mine);
        if (is_mine) {
            const int slot = next + __popc(mine & ((1u << lane) - 1));
            slot_row[slot] = i / k;
            slot_of[i] = slot;
        }
        next += __popc(mine);
    }
}

// `shared` may be null: nothing is added for it.
extern "C" __global__ void __launch_bounds__(route::THREADS) combine(
    float* x, const float* shared, const float* outputs, const int* slot_of, const float* weights, const int* rows,
    int k, int hidden) {
    const int row = blockIdx.x;
    if (row >= *rows) return;
    __shared__ int slots[route::MOST_CHOSEN];
    __shared__ float of_slots[route::MOST_CHOSEN];
    if (static_cast<int>(threadIdx.x) < k) {
        const int* of_row = slot_of + static_cast<size_t>(row) * k;
        const int slot = of_row[threadIdx.x];
        int before = 0;
        for (int other = 0; other < k; ++other) before += of_row[other] < slot ? 1 : 0;
        slots[before] = slot;
        of_slots[before] = weights[static_cast<size_t>(row) * k + threadIdx.x];
    }
    __syncthreads();
    const size_t first = static_cast<size_t>(row) * hidden;
    // A product and then a sum, each rounded, as on the CPU.
    if (hidden % route::FOUR == 0) {
        float4* x4 = reinterpret_cast<float4*>(x + first);
        for (int i = threadIdx.x; i < hidden / route::FOUR; i += route::THREADS) {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (shared != nullptr) sum = reinterpret_cast<const float4*>(shared + first)[i];
#pragma unroll 4
            for (int j = 0; j < k; ++j) {
                const float* output = outputs + static_cast<size_t>(slots[j]) * hidden;
                const float4 v = reinterpret_cast<const float4*>(output)[i];
                sum.x = __fadd_rn(sum.x, __fmul_rn(of_slots[j], v.x));
                sum.y = __fadd_rn(sum.y, __fmul_rn(of_slots[j], v.y));
                sum.z = __fadd_rn(sum.z, __fmul_rn(of_slots[j], v.z));
                sum.w = __fadd_rn(sum.w, __fmul_rn(of_slots[j], v.w));
            }
            const float4 old = x4[i];
            x4[i] = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
        }
    } else {
        for (int i = threadIdx.x; i < hidden; i += route::THREADS) {
            float sum = shared != nullptr ? shared[first + i] : 0.0f;
            for (int j = 0; j < k; ++j) {
                const float v = outputs[static_cast<size_t>(slots[j]) * hidden + i];
                sum = __fadd_rn(sum, __fmul_rn(of_slots[j], v));
            }
            x[first + i] += sum;
        }
    }
}
