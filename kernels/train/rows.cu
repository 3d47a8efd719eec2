// What the trainer does with rows beside products and attention. All numbers f32, row-major; width, counts: any.
//
//   train_norm            y = x · r · w, r = 1 / sqrt(mean(x²) + eps)             x, y [rows, width], w [width]
//   train_norm_backward   dx += r · (dy · w − x · r² · mean(dy · x · w)), partial[part] = Σ over its rows of dy · x · r
//   train_norm_reduce     dweight += Σ over parts of partial                      partial [parts, width]
//   train_heads           of each query and key head the norm, then its pairs (i, i + rotary_dim / 2) below rotary_dim
//                         turn by the position's angles; values are copied
//   train_heads_backward  the gradient of that: dqkv of dq, dk, dv, and partial [parts, 2 · head_dim], queries first
//   train_heads_reduce    dquery_norm, dkey_norm += Σ over parts of partial
//   train_loss            of each target weight · nats, weight, nats and whether no logit is above the token's, with
//                         nats = −ln softmax(logits)[token]; then logits = (softmax − one-hot) · weight · scale
//   train_gather          y[i] = x[index[i]]                                      y [count, width]
//   train_embed           x[row] = table[tokens[row]]                             x [rows, hidden]
//   train_scatter_add     y[targets[d]] += x[order[i]] for i from starts[d] to starts[d + 1], one after the other
//   train_add             y += x
//
// qkv has [queries | keys | values] in the first `rows` rows and behind those [keys | values] for the rows up to `all`;
// dqkv likewise. q [rows, heads · head_dim], k and v [all, kv_heads · head_dim], their norms [head_dim], positions
// [all], cosines and sines [positions, rotary_dim / 2]. Tokens are below vocabulary, a scatter's targets distinct. No
// output is an input or another output.
//
// Blocks have 256 threads. A part is 16 rows: parts = ceil(rows / 16), for heads ceil(all / 16). Grids:
//   train_norm         rows                   train_norm_backward   parts, with 4 · width bytes of shared memory
//   train_heads        all                    train_heads_backward  parts, with 64 · head_dim bytes of shared memory
//   train_norm_reduce  ceil(width / 32)       train_heads_reduce    ceil(2 · head_dim / 32)
//   train_loss         targets                train_scatter_add     (distinct, ceil(width / 256))
//   train_gather       count                  train_embed           rows             train_add  any
// Limits, of the 48 KiB of shared memory that need no asking: width ≤ 12256 and head_dim ≤ 768 in the two *_backward.
//
// The order of every sum is that of the shapes. CPU twins: src/engine/ops/{norm,rope,softmax}.rs; `turn_heads` and
// `turn_heads_back` in src/engine/train/layer.rs; src/engine/train/loss.rs; `forward` and `backward` in
// src/engine/train/network.rs.
#include "../warps.cuh"

// What the loss of one target is.
struct TrainLoss {
    float weighted;
    float weight;
    float nats;
    // 1 or 0.
    float hit;
};

namespace train_rows {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / LANES;
// Rows whose gradients of a norm's weight one block sums: enough that the partial sums are little beside the rows,
// few enough that some thousand rows keep a GPU busy.
constexpr int PART_ROWS = 16;
// Logits that a thread looks at before it scales its sum again.
constexpr int AT_ONCE = 4;
// The least probability whose logarithm is taken.
constexpr float LEAST = 1e-30f;

// Returns the sums over the block to every thread.
__device__ __forceinline__ float2 block_sum(float first, float second) {
    __shared__ float2 of_warps[WARPS];
    first = warp_sum(first), second = warp_sum(second);
    // Somebody may still read the sums before these.
    __syncthreads();
    if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = make_float2(first, second);
    __syncthreads();
    float2 sum = make_float2(0.0f, 0.0f);
    for (int warp = 0; warp < WARPS; ++warp) sum.x += of_warps[warp].x, sum.y += of_warps[warp].y;
    return sum;
}

__device__ __forceinline__ float block_max(float value) {
    __shared__ float of_warps[WARPS];
    for (int apart = LANES / 2; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, apart));
    if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = value;
    __syncthreads();
    for (int warp = 0; warp < WARPS; ++warp) value = fmaxf(value, of_warps[warp]);
    return value;
}

__device__ __forceinline__ float inverse_root(float squares, int width, float eps) {
    return 1.0f / sqrtf(squares / static_cast<float>(width) + eps);
}

// Returns to the first warp the sum of its lane's column; the block's warps share out the parts.
__device__ __forceinline__ float sum_of_parts(const float* __restrict__ partial, int parts, int width, int column) {
    __shared__ float of_warps[WARPS][LANES];
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (int part = warp; part < parts; part += WARPS) sum += partial[static_cast<size_t>(part) * width + column];
    }
    of_warps[warp][lane] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < WARPS; ++i) sum += of_warps[i][lane];
    return sum;
}

// How the heads of rows lie and turn.
struct Heads {
    int rows;
    int heads;
    int kv_heads;
    int head_dim;
    // Half of the dimensions that turn.
    int half;
    float eps;

    __device__ __forceinline__ int queries(int row) const { return row < rows ? heads : 0; }

    // Where a row begins in qkv.
    __device__ __forceinline__ size_t start(int row) const {
        const size_t keys = static_cast<size_t>(kv_heads) * head_dim;
        const size_t width = static_cast<size_t>(heads) * head_dim + 2 * keys;
        return row < rows ? row * width : rows * width + (row - rows) * 2 * keys;
    }
};

// A head's angles at its position.
struct Angles {
    const float* cosines;
    const float* sines;
};

__device__ __forceinline__ Angles angles(
    const float* cosines, const float* sines, const int* positions, int row, const Heads& shape) {
    const size_t first = static_cast<size_t>(positions[row]) * shape.half;
    return {cosines + first, sines + first};
}

// Writes a head's norm, turned; a warp does it.
__device__ __forceinline__ void turn(
    float* __restrict__ out, const float* __restrict__ raw, const float* __restrict__ norm, Angles by,
    const Heads& shape, int lane) {
    float squares = 0.0f;
    for (int i = lane; i < shape.head_dim; i += LANES) squares += raw[i] * raw[i];
    const float inverse = inverse_root(warp_sum(squares), shape.head_dim, shape.eps);
    for (int i = lane; i < shape.half; i += LANES) {
        const int other = i + shape.half;
        const float a = raw[i] * inverse * norm[i], b = raw[other] * inverse * norm[other];
        out[i] = a * by.cosines[i] - b * by.sines[i];
        out[other] = b * by.cosines[i] + a * by.sines[i];
    }
    for (int i = 2 * shape.half + lane; i < shape.head_dim; i += LANES) out[i] = raw[i] * inverse * norm[i];
}

// Calls visit(dimension, gradient before it turned) for all dimensions of a head, each on the same lane every time.
template <class Visit>
__device__ __forceinline__ void turned_back(
    const float* __restrict__ d, Angles by, const Heads& shape, int lane, Visit visit) {
    for (int i = lane; i < shape.half; i += LANES) {
        const float a = d[i], b = d[i + shape.half];
        visit(i, a * by.cosines[i] + b * by.sines[i]);
        visit(i + shape.half, b * by.cosines[i] - a * by.sines[i]);
    }
    for (int i = 2 * shape.half + lane; i < shape.head_dim; i += LANES) visit(i, d[i]);
}

// Writes the gradient of a raw head from that of the turned one, and adds to that of the norm; a warp does it.
__device__ __forceinline__ void turn_back(
    float* __restrict__ draw, float* __restrict__ dnorm, const float* __restrict__ d, const float* __restrict__ raw,
    const float* __restrict__ norm, Angles by, const Heads& shape, int lane) {
    float squares = 0.0f, products = 0.0f;
    turned_back(d, by, shape, lane, [&](int i, float gradient) {
        squares += raw[i] * raw[i];
        products += gradient * raw[i] * norm[i];
    });
    const float inverse = inverse_root(warp_sum(squares), shape.head_dim, shape.eps);
    const float along = warp_sum(products) * inverse * inverse / static_cast<float>(shape.head_dim);
    turned_back(d, by, shape, lane, [&](int i, float gradient) {
        draw[i] = inverse * (gradient * norm[i] - along * raw[i]);
        dnorm[i] += gradient * raw[i] * inverse;
    });
}

__device__ __forceinline__ void copy(float* __restrict__ out, const float* __restrict__ in, int count) {
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += THREADS) out[i] = in[i];
}

// What exponents are taken from: differences from −∞ are none.
__device__ __forceinline__ float base(float largest) { return largest == minus_infinity() ? 0.0f : largest; }

}  // namespace train_rows

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_norm(
    float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ weight, int rows, int width,
    float eps) {
    using namespace train_rows;
    const int row = blockIdx.x;
    if (row >= rows) return;
    const float* of_row = x + static_cast<size_t>(row) * width;
    float* out = y + static_cast<size_t>(row) * width;
    float squares = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < width; i += THREADS) squares += of_row[i] * of_row[i];
    const float inverse = inverse_root(block_sum(squares, 0.0f).x, width, eps);
#pragma unroll 4
    for (int i = threadIdx.x; i < width; i += THREADS) out[i] = of_row[i] * inverse * weight[i];
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_norm_backward(
    float* __restrict__ dx, float* __restrict__ partial, const float* __restrict__ dy, const float* __restrict__ x,
    const float* __restrict__ weight, int rows, int width, float eps) {
    using namespace train_rows;
    const int first = blockIdx.x * PART_ROWS;
    if (first >= rows) return;
    // Of each column; a thread has its own, so nobody waits.
    DYNAMIC_SHARED(train_shared);
    float* sums = reinterpret_cast<float*>(train_shared);
    for (int i = threadIdx.x; i < width; i += THREADS) sums[i] = 0.0f;
    for (int row = first; row < min(first + PART_ROWS, rows); ++row) {
        const size_t start = static_cast<size_t>(row) * width;
        float squares = 0.0f, products = 0.0f;
#pragma unroll 4
        for (int i = threadIdx.x; i < width; i += THREADS) {
            const float value = x[start + i];
            squares += value * value;
            products += dy[start + i] * value * weight[i];
        }
        const float2 sum = block_sum(squares, products);
        const float inverse = inverse_root(sum.x, width, eps);
        const float along = sum.y * inverse * inverse / static_cast<float>(width);
#pragma unroll 4
        for (int i = threadIdx.x; i < width; i += THREADS) {
            const float value = x[start + i], gradient = dy[start + i];
            dx[start + i] += inverse * (gradient * weight[i] - along * value);
            sums[i] += gradient * value * inverse;
        }
    }
    copy(partial + static_cast<size_t>(blockIdx.x) * width, sums, width);
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_norm_reduce(
    float* __restrict__ dweight, const float* __restrict__ partial, int parts, int width) {
    using namespace train_rows;
    const int column = blockIdx.x * LANES + threadIdx.x % LANES;
    const float sum = sum_of_parts(partial, parts, width, column);
    if (threadIdx.x < LANES && column < width) dweight[column] += sum;
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_heads(
    float* __restrict__ q, float* __restrict__ k, float* __restrict__ v, const float* __restrict__ qkv,
    const float* __restrict__ query_norm, const float* __restrict__ key_norm, const float* __restrict__ cosines,
    const float* __restrict__ sines, const int* __restrict__ positions, int rows, int all, int heads, int kv_heads,
    int head_dim, int rotary_dim, float eps) {
    using namespace train_rows;
    const int row = blockIdx.x, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (row >= all) return;
    const Heads shape{rows, heads, kv_heads, head_dim, rotary_dim / 2, eps};
    const Angles by = angles(cosines, sines, positions, row, shape);
    const float* raw = qkv + shape.start(row);
    const int queries = shape.queries(row), keys = kv_heads * head_dim;
    for (int head = warp; head < queries + kv_heads; head += WARPS) {
        const bool is_query = head < queries;
        float* out = is_query ? q + (static_cast<size_t>(row) * heads + head) * head_dim
                              : k + (static_cast<size_t>(row) * kv_heads + head - queries) * head_dim;
        turn(out, raw + head * head_dim, is_query ? query_norm : key_norm, by, shape, lane);
    }
    copy(v + static_cast<size_t>(row) * keys, raw + queries * head_dim + keys, keys);
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_heads_backward(
    float* __restrict__ dqkv, float* __restrict__ partial, const float* __restrict__ dq, const float* __restrict__ dk,
    const float* __restrict__ dv, const float* __restrict__ qkv, const float* __restrict__ query_norm,
    const float* __restrict__ key_norm, const float* __restrict__ cosines, const float* __restrict__ sines,
    const int* __restrict__ positions, int rows, int all, int heads, int kv_heads, int head_dim, int rotary_dim,
    float eps) {
    using namespace train_rows;
    const int first = blockIdx.x * PART_ROWS, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (first >= all) return;
    const Heads shape{rows, heads, kv_heads, head_dim, rotary_dim / 2, eps};
    const int keys = kv_heads * head_dim, norms = 2 * head_dim;
    // The norms' gradients of each warp.
    DYNAMIC_SHARED(train_shared);
    float* sums = reinterpret_cast<float*>(train_shared);
    for (int i = threadIdx.x; i < WARPS * norms; i += THREADS) sums[i] = 0.0f;
    __syncthreads();
    for (int row = first; row < min(first + PART_ROWS, all); ++row) {
        const Angles by = angles(cosines, sines, positions, row, shape);
        const size_t start = shape.start(row);
        const int queries = shape.queries(row);
        for (int head = warp; head < queries + kv_heads; head += WARPS) {
            const bool is_query = head < queries;
            const float* d = is_query ? dq + (static_cast<size_t>(row) * heads + head) * head_dim
                                      : dk + (static_cast<size_t>(row) * kv_heads + head - queries) * head_dim;
            const size_t at = start + head * head_dim;
            float* dnorm = sums + warp * norms + (is_query ? 0 : head_dim);
            turn_back(dqkv + at, dnorm, d, qkv + at, is_query ? query_norm : key_norm, by, shape, lane);
        }
        copy(dqkv + start + queries * head_dim + keys, dv + static_cast<size_t>(row) * keys, keys);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < norms; i += THREADS) {
        float sum = 0.0f;
        for (int of = 0; of < WARPS; ++of) sum += sums[of * norms + i];
        partial[static_cast<size_t>(blockIdx.x) * norms + i] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_heads_reduce(
    float* __restrict__ dquery_norm, float* __restrict__ dkey_norm, const float* __restrict__ partial, int parts,
    int head_dim) {
    using namespace train_rows;
    const int column = blockIdx.x * LANES + threadIdx.x % LANES;
    const float sum = sum_of_parts(partial, parts, 2 * head_dim, column);
    if (threadIdx.x >= LANES || column >= 2 * head_dim) return;
    float* dnorm = column < head_dim ? dquery_norm + column : dkey_norm + column - head_dim;
    *dnorm += sum;
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_loss(
    TrainLoss* __restrict__ loss, float* __restrict__ logits, const int* __restrict__ tokens,
    const float* __restrict__ weights, int targets, int vocabulary, float scale, int wants_gradient) {
    using namespace train_rows;
    const int target = blockIdx.x, thread = threadIdx.x;
    if (target >= targets) return;
    float* row = logits + static_cast<size_t>(target) * vocabulary;
    const int token = tokens[target];
    const float weight = weights[target], of_token = row[token];
    // The largest of this thread's logits so far, and the sum of exponentials beside it.
    float largest = minus_infinity(), sum = 0.0f;
    for (int start = thread; start < vocabulary; start += AT_ONCE * THREADS) {
        float some[AT_ONCE];
        float next = largest;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int at = start + i * THREADS;
            some[i] = at < vocabulary ? row[at] : minus_infinity();
            next = fmaxf(next, some[i]);
        }
        sum *= expf(largest - base(next));
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) sum += expf(some[i] - base(next));
        largest = next;
    }
    const float own = largest;
    largest = block_max(own);
    sum = block_sum(sum * expf(own - base(largest)), 0.0f).x;
    const float inverse = 1.0f / sum;
    if (thread == 0) {
        // The largest probability is e^0 · inverse; what is rounded to that is a hit as well.
        const float p = expf(of_token - base(largest)) * inverse;
        const float nats = -logf(fmaxf(p, LEAST));
        loss[target] = {weight * nats, weight, nats, p >= inverse ? 1.0f : 0.0f};
    }
    if (wants_gradient == 0) return;
    const float factor = weight * scale;
#pragma unroll 4
    for (int i = thread; i < vocabulary; i += THREADS) {
        const float p = expf(row[i] - base(largest)) * inverse;
        row[i] = (i == token ? p - 1.0f : p) * factor;
    }
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_gather(
    float* __restrict__ y, const float* __restrict__ x, const int* __restrict__ index, int count, int width) {
    const int row = blockIdx.x;
    if (row >= count) return;
    train_rows::copy(y + static_cast<size_t>(row) * width, x + static_cast<size_t>(index[row]) * width, width);
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_embed(
    float* __restrict__ x, const float* __restrict__ table, const int* __restrict__ tokens, int rows, int hidden) {
    const int row = blockIdx.x;
    if (row >= rows) return;
    train_rows::copy(x + static_cast<size_t>(row) * hidden, table + static_cast<size_t>(tokens[row]) * hidden, hidden);
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_scatter_add(
    float* __restrict__ y, const float* __restrict__ x, const int* __restrict__ starts, const int* __restrict__ order,
    const int* __restrict__ targets, int distinct, int width) {
    const int d = blockIdx.x, column = blockIdx.y * train_rows::THREADS + threadIdx.x;
    if (d >= distinct || column >= width) return;
    float* to = y + static_cast<size_t>(targets[d]) * width + column;
    float sum = *to;
    // One token may have thousands of rows: many loads under way.
#pragma unroll 16
    for (int i = starts[d]; i < starts[d + 1]; ++i) sum += x[static_cast<size_t>(order[i]) * width + column];
    *to = sum;
}

extern "C" __global__ void __launch_bounds__(train_rows::THREADS) train_add(
    float* __restrict__ y, const float* __restrict__ x, long long count) {
    const long long first = static_cast<long long>(blockIdx.x) * train_rows::THREADS + threadIdx.x;
    const long long step = static_cast<long long>(gridDim.x) * train_rows::THREADS;
#pragma unroll 4
    for (long long i = first; i < count; i += step) y[i] += x[i];
}
