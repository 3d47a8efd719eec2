// Queries, keys and values of one layer made ready: norm of queries and keys, clip of all three, rotation of queries
// and keys by their position; then queries to `q`, keys and values to their places in the cache.
//
//   norm     v = x / sqrt(mean(x²) + eps) · weight, over each head (weight [head_dim]) or over all heads of the row
//   clip     v = min(max(v, −clip), clip)
//   rotation pair (i, i + rotary_dim / 2): (a, b) → (a·cos − b·sin, b·cos + a·sin), angle = position · frequencies[i]
//
// qkv f32 [rows, (heads + 2·kv_heads) · head_dim]: queries, keys, values. q [rows, heads, head_dim] bf16 or f32.
// cache [page][layer][kv head][key or value][64][head_dim], of q's type; place = 64·page + position in the page.
// frequencies f32 [rotary_dim / 2]; positions and places [rows], no place twice.
//
// Grid: a block for each of the most rows, those beyond `*rows` return at once. Block: 32 · min(heads + 2·kv_heads, 32)
// threads, a warp for a head; any multiple of 32 works, but the sum over a whole row is in an order that depends on it.
// Dynamic shared memory: 4 · rotary_dim bytes. Source: arXiv 2104.09864 in the half-split form; CPU twins:
// `place` in src/engine/model/cpu.rs, src/engine/ops/rope.rs.
#include "warps.cuh"

struct RopeShape {
    int heads;
    int kv_heads;
    int head_dim;
    // How many dimensions of a head turn; even.
    int rotary_dim;
    // 0: none, 1: over each head, 2: over all heads of the row.
    int norm;
    int layers;
    int layer;
    float eps;
    // Infinity for none.
    float clip;
};

namespace rope {

constexpr int MOST_THREADS = 1024;
constexpr int MOST_WARPS = MOST_THREADS / LANES;
// Positions of a page of the cache.
constexpr int PAGE = 64;
constexpr int NORM_NONE = 0;
constexpr int NORM_EACH_HEAD = 1;
constexpr int NORM_WHOLE_ROW = 2;

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(uint16_t* to, float value) { *to = to_bf16(value); }

// Returns the sum of squares of what a thread sees of `count` numbers, `apart` threads taking turns.
__device__ __forceinline__ float squares(const float* x, int count, int first, int apart) {
    float sum = 0.0f;
    for (int i = first; i < count; i += apart) sum = fmaf(x[i], x[i], sum);
    return sum;
}

__device__ __forceinline__ float inverse_root(float squares, int count, float eps) {
    return 1.0f / sqrtf(squares / static_cast<float>(count) + eps);
}

// One head of a row, with the norm that it gets.
struct Head {
    const float* x;
    // Null for no norm.
    const float* weight;
    float inverse;
    float clip;

    __device__ __forceinline__ float at(int i) const {
        const float value = weight == nullptr ? x[i] : x[i] * inverse * weight[i];
        // Unlike fminf and fmaxf this keeps what is not a number.
        return value < -clip ? -clip : value > clip ? clip : value;
    }
};

// Writes a head, its first dimensions turned; a warp does it.
template <class Number>
__device__ __forceinline__ void write_turned(
    Number* out, const Head& head, const float2* turns, int half, int head_dim, int lane) {
    for (int i = lane; i < half; i += LANES) {
        const float a = head.at(i), b = head.at(i + half);
        const float cosine = turns[i].x, sine = turns[i].y;
        store(out + i, a * cosine - b * sine);
        store(out + i + half, b * cosine + a * sine);
    }
    for (int i = 2 * half + lane; i < head_dim; i += LANES) store(out + i, head.at(i));
}

template <class Number>
__device__ __forceinline__ void place(
    Number* q, Number* cache, const float* qkv, const float* query_norm, const float* key_norm,
    const float* frequencies, const uint32_t* positions, const uint32_t* places, const int* rows,
    const RopeShape& shape) {
    const int row = blockIdx.x;
    if (row >= *rows) return;
    // The cosine and sine of each pair.
    DYNAMIC_SHARED(rope_memory);
    float2* turns = reinterpret_cast<float2*>(rope_memory);
    __shared__ float query_squares[MOST_WARPS], key_squares[MOST_WARPS];
    const int thread = threadIdx.x, threads = blockDim.x;
    const int warp = thread / LANES, lane = thread % LANES, warps = threads / LANES;
    const int head_dim = shape.head_dim, half = shape.rotary_dim / 2;
    const int queries = shape.heads * head_dim, keys = shape.kv_heads * head_dim;
    const float* x = qkv + static_cast<size_t>(row) * (queries + 2 * keys);

    for (int i = thread; i < half; i += threads) {
        float sine, cosine;
        sincosf(static_cast<float>(positions[row]) * frequencies[i], &sine, &cosine);
        turns[i] = make_float2(cosine, sine);
    }
    if (shape.norm == NORM_WHOLE_ROW) {
        const float of_queries = warp_sum(squares(x, queries, thread, threads));
        const float of_keys = warp_sum(squares(x + queries, keys, thread, threads));
        if (lane == 0) query_squares[warp] = of_queries, key_squares[warp] = of_keys;
    }
    __syncthreads();
    float query_inverse = 0.0f, key_inverse = 0.0f;
    if (shape.norm == NORM_WHOLE_ROW) {
        float of_queries = 0.0f, of_keys = 0.0f;
        for (int i = 0; i < warps; ++i) of_queries += query_squares[i], of_keys += key_squares[i];
        query_inverse = inverse_root(of_queries, queries, shape.eps);
        key_inverse = inverse_root(of_keys, keys, shape.eps);
    }

    const uint32_t page = places[row] / PAGE, at = places[row] % PAGE;
    for (int i = warp; i < shape.heads + 2 * shape.kv_heads; i += warps) {
        Head head = {x + static_cast<size_t>(i) * head_dim, nullptr, 1.0f, shape.clip};
        const bool is_query = i < shape.heads, is_value = i >= shape.heads + shape.kv_heads;
        const int kv_head = is_value ? i - shape.heads - shape.kv_heads : i - shape.heads;
        if (shape.norm != NORM_NONE && !is_value) {
            head.weight = is_query ? query_norm : key_norm;
            if (shape.norm == NORM_EACH_HEAD) {
                head.inverse = inverse_root(warp_sum(squares(head.x, head_dim, lane, LANES)), head_dim, shape.eps);
            } else {
                head.weight += (is_query ? i : kv_head) * head_dim;
                head.inverse = is_query ? query_inverse : key_inverse;
            }
        }
        if (is_query) {
            Number* out = q + (static_cast<size_t>(row) * shape.heads + i) * head_dim;
            write_turned(out, head, turns, half, head_dim, lane);
            continue;
        }
        const size_t of_head = (static_cast<size_t>(page) * shape.layers + shape.layer) * shape.kv_heads + kv_head;
        Number* out = cache + ((2 * of_head + (is_value ? 1 : 0)) * PAGE + at) * head_dim;
        write_turned(out, head, turns, is_value ? 0 : half, head_dim, lane);
    }
}

}  // namespace rope

extern "C" __global__ void __launch_bounds__(rope::MOST_THREADS) rope_bf16(
    uint16_t* q, uint16_t* cache, const float* qkv, const float* query_norm, const float* key_norm,
    const float* frequencies, const uint32_t* positions, const uint32_t* places, const int* rows, RopeShape shape) {
    rope::place(q, cache, qkv, query_norm, key_norm, frequencies, positions, places, rows, shape);
}

extern "C" __global__ void __launch_bounds__(rope::MOST_THREADS) rope_f32(
    float* q, float* cache, const float* qkv, const float* query_norm, const float* key_norm,
    const float* frequencies, const uint32_t* positions, const uint32_t* places, const int* rows, RopeShape shape) {
    rope::place(q, cache, qkv, query_norm, key_norm, frequencies, positions, places, rows, shape);
}
