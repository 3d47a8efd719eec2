// Attention of one-pass block diffusion and its gradient, without a matrix of scores in memory.
//
//   p[i][j] = exp(scale·q[i]·k[j] − stats[i]),  stats[i] = log Σ_j exp(scale·q[i]·k[j]),  over the keys j that row i sees
//   out[i] = Σ_j p[i][j]·v[j]
//   delta[i] = dout[i]·out[i],  ds[i][j] = p[i][j]·(dout[i]·v[j] − delta[i])·scale
//   dq[i] = Σ_j ds[i][j]·k[j],  dk[j] = Σ_i ds[i][j]·q[i],  dv[j] = Σ_i p[i][j]·dout[i]
//
// of each query head; heads / kv_heads of them share a head of keys, and their gradients of it are summed.
//
// A document's tokens fall into blocks of `block` from its start, the last may be shorter. Paired: rows 0..tokens are
// noised, rows tokens..2·tokens the same tokens clean. A noised row sees the noised rows of its own block and the clean
// rows of the document's blocks before; a clean row sees the clean rows of its own block and of those before. Not
// paired: all rows are what clean rows are.
//
// Shapes  all f32, beginning at multiples of 16 bytes: q, out, dq, dout [rows, heads · head_dim];
//         k, v, dk, dv [all, kv_heads · head_dim]; stats, delta [rows, heads]. row_document int [tokens]: the document a
//         token is of. documents int [2 · count]: start and end of each, ascending, without gaps.
//         Results replace what was there; every row is written.
//
// train_attend, train_attend_backward_queries  grid (heads, ⌈tokens / 64⌉ · rows / tokens), block 256
// train_attend_backward_keys                   grid (kv_heads, ⌈tokens / 64⌉ · all / tokens), block 256
// train_attend_delta                           grid ⌈rows · heads / 8⌉, block 256, no shared memory; before the other two
//
// Dynamic shared memory, in bytes, where others = 64 for head_dim ≤ 64, else 32, and stride = 4 · (head_dim / 4 | 1):
//   train_attend 4 · ((64 + others) · stride + 64 · (others + 4)), the other two 4 · ((128 + others) · stride + the same);
//   at most 93,696.
//
// A block has 64 rows of one head, its own, in shared memory for good; the others that they see, or that see them, come
// by in tiles. So each sum has one owner and an order that the documents alone decide. The same 16 threads write and read
// a row of weights. Products are f32.
//
// Limits  head_dim a multiple of 4 up to 128; heads a multiple of kv_heads; rows tokens or all; all tokens, or 2 · tokens if
//         paired; tokens ≥ 1. Source: FlashAttention-2, arXiv 2307.08691; BD3-LM, arXiv 2503.09573; CPU twin
//         src/engine/train/attention.rs.
#include "../warps.cuh"

namespace train_attention {

struct TrainHeads {
    int heads, kv_heads, head_dim;
    // Tokens of a block.
    int block;
    int tokens;
    // Rows with queries, and rows with keys.
    int rows, all;
    int is_paired;
    float scale;
};

// Threads that share a row of weights: half a warp, so that shuffles reach all of them.
constexpr int ACROSS = 16;
// Own rows of a thread. Four of each factor in registers make 16 products of 8 loads.
constexpr int PER_THREAD = 4;
constexpr int OWN = 64;
constexpr int THREADS = OWN / PER_THREAD * ACROSS;
// Registers for two blocks; one would wait at its barriers with nothing else to run.
constexpr int LEAST_BLOCKS = 2;
constexpr int DELTA_WARPS = THREADS / LANES;
// Head dimensions up to which a thread has four columns of each of its rows; beyond it has eight.
constexpr int NARROW = 4 * ACROSS;
constexpr int NARROW_OTHERS = 64;
// Half of that, so that wide heads fit into the 99 KiB that all GPUs since compute capability 8.0 have.
constexpr int WIDE_OTHERS = 32;
// Floats behind a row of weights, so that both halves of a warp find other banks.
constexpr int WEIGHTS_GAP = 4;

// Floats from one row of a tile to the next: an odd number of float4, so that rows begin at different banks.
__device__ __forceinline__ int tile_stride(int head_dim) { return (head_dim / 4 | 1) * 4; }

// Tokens from..to of one half.
struct Range {
    int from, to;
};

// A token's document and its block in that.
struct Token {
    Range document, block;
};

__device__ __forceinline__ Token token_at(int at, const int* row_document, const int* documents,
                                          const TrainHeads& shape) {
    const int document = row_document[at];
    Token token;
    token.document = {documents[2 * document], documents[2 * document + 1]};
    const int in_block = (at - token.document.from) % shape.block;
    token.block = {at - in_block, min(at - in_block + shape.block, token.document.to)};
    return token;
}

// The keys of one half that a query sees.
struct KeysOfQuery {
    __device__ __forceinline__ static Range of(const Token& query, bool is_clean, bool is_clean_key) {
        if (!is_clean_key) return is_clean ? Range{0, 0} : query.block;
        return {query.document.from, is_clean ? query.block.to : query.block.from};
    }
};

// The queries of one half that see a key.
struct QueriesOfKey {
    __device__ __forceinline__ static Range of(const Token& key, bool is_clean, bool is_clean_query) {
        if (!is_clean) return is_clean_query ? Range{0, 0} : key.block;
        return {is_clean_query ? key.block.from : key.block.to, key.document.to};
    }
};

// The tile of own rows that a block works on.
struct Own {
    // Its first token and how many there are.
    int first, count;
    bool is_clean;
    // Where its half begins among all rows.
    int half;
};

// The clean half, and behind it the noised one, if there is one.
__device__ __forceinline__ int halves(const TrainHeads& shape) { return shape.is_paired ? 2 : 1; }

__device__ __forceinline__ int half_begin(bool is_clean, const TrainHeads& shape) {
    return is_clean && shape.is_paired ? shape.tokens : 0;
}

__device__ __forceinline__ Own own_tile(int tile, const TrainHeads& shape) {
    const int tiles = (shape.tokens + OWN - 1) / OWN;
    Own own;
    own.is_clean = !shape.is_paired || tile >= tiles;
    own.half = half_begin(own.is_clean, shape);
    own.first = tile % tiles * OWN;
    own.count = min(OWN, shape.tokens - own.first);
    return own;
}

__device__ __forceinline__ int thread_across() { return threadIdx.x % ACROSS; }

// The first own row of this thread.
__device__ __forceinline__ int thread_row() { return threadIdx.x / ACROSS * PER_THREAD; }

// What the own rows have to do with the others of one half.
struct Sight {
    // Of any of the own rows. Both ends of their ranges ascend, so the first and the last row tell.
    Range any;
    // Of each row of this thread.
    Range rows[PER_THREAD];

    __device__ __forceinline__ bool has(int row, int other) const {
        return other >= rows[row].from && other < rows[row].to;
    }
};

template <class Rule>
__device__ __forceinline__ Sight sight_of(const Own& own, bool is_clean_other, const int* row_document,
                                          const int* documents, const TrainHeads& shape) {
    const auto range_of = [&](int row) {
        return Rule::of(token_at(own.first + row, row_document, documents, shape), own.is_clean, is_clean_other);
    };
    Sight sight;
    sight.any = {range_of(0).from, range_of(own.count - 1).to};
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        const int row = thread_row() + i;
        sight.rows[i] = row < own.count ? range_of(row) : Range{0, 0};
    }
    return sight;
}

// Copies `count` rows of a head from global memory into a tile of ROWS rows, with zeros behind them.
template <int ROWS>
__device__ __forceinline__ void load(float* tile, const float* rows, size_t stride, int count, int head_dim) {
    const int to_stride = tile_stride(head_dim);
    for (int row = threadIdx.x / ACROSS; row < ROWS; row += THREADS / ACROSS) {
        for (int column = thread_across() * 4; column < head_dim; column += ACROSS * 4) {
            *reinterpret_cast<float4*>(tile + row * to_stride + column) =
                row < count ? *reinterpret_cast<const float4*>(rows + row * stride + column)
                            : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
}

// dots[i][j] = this thread's own row i · the other row thread_across() + 16·j.
template <int OTHERS>
__device__ __forceinline__ void dot(float (&dots)[PER_THREAD][OTHERS / ACROSS], const float* own, const float* others,
                                    int head_dim) {
    const int stride = tile_stride(head_dim);
    own += thread_row() * stride;
    others += thread_across() * stride;
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
#pragma unroll
        for (int j = 0; j < OTHERS / ACROSS; j++) dots[i][j] = 0.0f;
    }
#pragma unroll 1
    for (int column = 0; column < head_dim; column += 4) {
        float4 a[PER_THREAD], b[OTHERS / ACROSS];
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) a[i] = *reinterpret_cast<const float4*>(own + i * stride + column);
#pragma unroll
        for (int j = 0; j < OTHERS / ACROSS; j++) {
            b[j] = *reinterpret_cast<const float4*>(others + j * ACROSS * stride + column);
        }
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
#pragma unroll
            for (int j = 0; j < OTHERS / ACROSS; j++) {
                dots[i][j] = fmaf(a[i].x, b[j].x, dots[i][j]);
                dots[i][j] = fmaf(a[i].y, b[j].y, dots[i][j]);
                dots[i][j] = fmaf(a[i].z, b[j].z, dots[i][j]);
                dots[i][j] = fmaf(a[i].w, b[j].w, dots[i][j]);
            }
        }
    }
}

// Shows this thread's weights, placed as those of `dot`, to the others of its half warp.
template <int OTHERS>
__device__ __forceinline__ void show(float* weights, const float (&of_thread)[PER_THREAD][OTHERS / ACROSS]) {
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
#pragma unroll
        for (int j = 0; j < OTHERS / ACROSS; j++) {
            weights[(thread_row() + i) * (OTHERS + WEIGHTS_GAP) + thread_across() + j * ACROSS] = of_thread[i][j];
        }
    }
}

// This thread's own rows of a result: of each, QUADS times four columns, from 4·(thread_across() + 16·quad) on.
template <int QUADS>
struct Rows {
    float4 at[PER_THREAD][QUADS];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
#pragma unroll
            for (int quad = 0; quad < QUADS; quad++) at[i][quad] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }

    __device__ __forceinline__ void scale(int row, float by) {
#pragma unroll
        for (int quad = 0; quad < QUADS; quad++) {
            float4& value = at[row][quad];
            value = make_float4(value.x * by, value.y * by, value.z * by, value.w * by);
        }
    }

    // Adds weights · others.
    template <int OTHERS>
    __device__ __forceinline__ void add(const float* weights, const float* others, int head_dim) {
        const int stride = tile_stride(head_dim);
        weights += thread_row() * (OTHERS + WEIGHTS_GAP);
#pragma unroll 1
        for (int other = 0; other < OTHERS; other += 4) {
            float weight[PER_THREAD][4];
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                const float4 four =
                    *reinterpret_cast<const float4*>(weights + i * (OTHERS + WEIGHTS_GAP) + other);
                weight[i][0] = four.x, weight[i][1] = four.y, weight[i][2] = four.z, weight[i][3] = four.w;
            }
#pragma unroll
            for (int quad = 0; quad < QUADS; quad++) {
                const int column = (thread_across() + quad * ACROSS) * 4;
                if (column >= head_dim) continue;
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    const float4 value = *reinterpret_cast<const float4*>(others + (other + n) * stride + column);
#pragma unroll
                    for (int i = 0; i < PER_THREAD; i++) {
                        float4& sum = at[i][quad];
                        sum.x = fmaf(weight[i][n], value.x, sum.x);
                        sum.y = fmaf(weight[i][n], value.y, sum.y);
                        sum.z = fmaf(weight[i][n], value.z, sum.z);
                        sum.w = fmaf(weight[i][n], value.w, sum.w);
                    }
                }
            }
        }
    }

    // Writes the first `count` own rows of the block.
    __device__ __forceinline__ void store(float* rows, size_t stride, int count, int head_dim) const {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            const int row = thread_row() + i;
            if (row >= count) continue;
#pragma unroll
            for (int quad = 0; quad < QUADS; quad++) {
                const int column = (thread_across() + quad * ACROSS) * 4;
                if (column < head_dim) *reinterpret_cast<float4*>(rows + row * stride + column) = at[i][quad];
            }
        }
    }
};

__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (int apart = ACROSS / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(ALL_LANES, value, apart);
    return value;
}

__device__ __forceinline__ float row_largest(float value) {
#pragma unroll
    for (int apart = ACROSS / 2; apart > 0; apart /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, apart));
    }
    return value;
}

template <int QUADS, int OTHERS>
__device__ __forceinline__ void attend(float* out, float* stats, const float* q, const float* k, const float* v,
                                       const int* row_document, const int* documents, const TrainHeads& shape) {
    DYNAMIC_SHARED(train_attention_shared);
    const int head_dim = shape.head_dim, tile = tile_stride(head_dim);
    float* const queries = reinterpret_cast<float*>(train_attention_shared);
    float* const others = queries + OWN * tile;
    float* const weights = others + OTHERS * tile;

    // Late tokens see most; the last blocks of a grid had better be short.
    const Own own = own_tile(gridDim.y - 1 - blockIdx.y, shape);
    const int head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
    const size_t stride = static_cast<size_t>(shape.heads) * head_dim;
    const size_t kv_stride = static_cast<size_t>(shape.kv_heads) * head_dim;
    const size_t own_row = own.half + own.first;
    load<OWN>(queries, q + own_row * stride + head * head_dim, stride, own.count, head_dim);

    Rows<QUADS> values;
    values.clear();
    float largest[PER_THREAD], sum[PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) largest[i] = -INFINITY, sum[i] = 0.0f;

    for (int half = 0; half < halves(shape); half++) {
        const bool is_clean_key = half == 0;
        const Sight sight = sight_of<KeysOfQuery>(own, is_clean_key, row_document, documents, shape);
        for (int first = sight.any.from; first < sight.any.to; first += OTHERS) {
            const int count = min(OTHERS, sight.any.to - first);
            const size_t at = (half_begin(is_clean_key, shape) + first) * kv_stride + kv_head * head_dim;
            // All are done with the values before.
            __syncthreads();
            load<OTHERS>(others, k + at, kv_stride, count, head_dim);
            __syncthreads();
            float scores[PER_THREAD][OTHERS / ACROSS];
            dot<OTHERS>(scores, queries, others, head_dim);
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                float of_tile = -INFINITY;
#pragma unroll
                for (int j = 0; j < OTHERS / ACROSS; j++) {
                    const bool is_seen = sight.has(i, first + thread_across() + j * ACROSS);
                    scores[i][j] = is_seen ? scores[i][j] * shape.scale : -INFINITY;
                    of_tile = fmaxf(of_tile, scores[i][j]);
                }
                const float before = largest[i];
                largest[i] = fmaxf(before, row_largest(of_tile));
                // As long as nothing was seen both are −∞, whose difference is no number.
                const float shrink = before == largest[i] ? 1.0f : expf(before - largest[i]);
                float added = 0.0f;
#pragma unroll
                for (int j = 0; j < OTHERS / ACROSS; j++) {
                    scores[i][j] = scores[i][j] == -INFINITY ? 0.0f : expf(scores[i][j] - largest[i]);
                    added += scores[i][j];
                }
                sum[i] = sum[i] * shrink + added;
                values.scale(i, shrink);
            }
            show<OTHERS>(weights, scores);
            // All are done with the keys.
            __syncthreads();
            load<OTHERS>(others, v + at, kv_stride, count, head_dim);
            __syncthreads();
            values.template add<OTHERS>(weights, others, head_dim);
        }
    }

#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        const float total = row_sum(sum[i]);
        values.scale(i, 1.0f / total);
        const int row = thread_row() + i;
        if (thread_across() == 0 && row < own.count) {
            stats[(own_row + row) * shape.heads + head] = largest[i] + logf(total);
        }
    }
    values.store(out + own_row * stride + head * head_dim, stride, own.count, head_dim);
}

template <int QUADS, int OTHERS>
__device__ __forceinline__ void backward_queries(float* dq, const float* q, const float* k, const float* v,
                                                 const float* dout, const float* stats, const float* delta,
                                                 const int* row_document, const int* documents,
                                                 const TrainHeads& shape) {
    DYNAMIC_SHARED(train_attention_shared);
    const int head_dim = shape.head_dim, tile = tile_stride(head_dim);
    float* const queries = reinterpret_cast<float*>(train_attention_shared);
    float* const gradients = queries + OWN * tile;
    float* const others = gradients + OWN * tile;
    float* const weights = others + OTHERS * tile;

    const Own own = own_tile(gridDim.y - 1 - blockIdx.y, shape);
    const int head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
    const size_t stride = static_cast<size_t>(shape.heads) * head_dim;
    const size_t kv_stride = static_cast<size_t>(shape.kv_heads) * head_dim;
    const size_t own_row = own.half + own.first;
    const size_t own_at = own_row * stride + head * head_dim;
    load<OWN>(queries, q + own_at, stride, own.count, head_dim);
    load<OWN>(gradients, dout + own_at, stride, own.count, head_dim);
    float log_sum[PER_THREAD], along[PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        const int row = thread_row() + i;
        const size_t at = (own_row + row) * shape.heads + head;
        log_sum[i] = row < own.count ? stats[at] : 0.0f;
        along[i] = row < own.count ? delta[at] : 0.0f;
    }

    Rows<QUADS> gradient;
    gradient.clear();
    for (int half = 0; half < halves(shape); half++) {
        const bool is_clean_key = half == 0;
        const Sight sight = sight_of<KeysOfQuery>(own, is_clean_key, row_document, documents, shape);
        for (int first = sight.any.from; first < sight.any.to; first += OTHERS) {
            const int count = min(OTHERS, sight.any.to - first);
            const size_t at = (half_begin(is_clean_key, shape) + first) * kv_stride + kv_head * head_dim;
            // All are done with the keys before.
            __syncthreads();
            load<OTHERS>(others, v + at, kv_stride, count, head_dim);
            __syncthreads();
            float dp[PER_THREAD][OTHERS / ACROSS];
            dot<OTHERS>(dp, gradients, others, head_dim);
            // All are done with the values.
            __syncthreads();
            load<OTHERS>(others, k + at, kv_stride, count, head_dim);
            __syncthreads();
            float ds[PER_THREAD][OTHERS / ACROSS];
            dot<OTHERS>(ds, queries, others, head_dim);
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
#pragma unroll
                for (int j = 0; j < OTHERS / ACROSS; j++) {
                    const bool is_seen = sight.has(i, first + thread_across() + j * ACROSS);
                    const float p = is_seen ? expf(ds[i][j] * shape.scale - log_sum[i]) : 0.0f;
                    ds[i][j] = p * (dp[i][j] - along[i]) * shape.scale;
                }
            }
            show<OTHERS>(weights, ds);
            __syncwarp();
            gradient.template add<OTHERS>(weights, others, head_dim);
        }
    }
    gradient.store(dq + own_at, stride, own.count, head_dim);
}

template <int QUADS, int OTHERS>
__device__ __forceinline__ void backward_keys(float* dk, float* dv, const float* q, const float* k, const float* v,
                                              const float* dout, const float* stats, const float* delta,
                                              const int* row_document, const int* documents, const TrainHeads& shape) {
    DYNAMIC_SHARED(train_attention_shared);
    const int head_dim = shape.head_dim, tile = tile_stride(head_dim);
    float* const keys = reinterpret_cast<float*>(train_attention_shared);
    float* const values = keys + OWN * tile;
    float* const others = values + OWN * tile;
    float* const weights = others + OTHERS * tile;

    // Early clean keys are seen by most, noised ones by their block only: so the clean half comes first.
    const int tiles_behind = shape.is_paired ? gridDim.y / 2 : 0;
    const Own own = own_tile((blockIdx.y + tiles_behind) % gridDim.y, shape);
    const int kv_head = blockIdx.x, group = shape.heads / shape.kv_heads;
    const size_t stride = static_cast<size_t>(shape.heads) * head_dim;
    const size_t kv_stride = static_cast<size_t>(shape.kv_heads) * head_dim;
    const size_t own_at = (own.half + own.first) * kv_stride + kv_head * head_dim;
    load<OWN>(keys, k + own_at, kv_stride, own.count, head_dim);
    load<OWN>(values, v + own_at, kv_stride, own.count, head_dim);

    Rows<QUADS> keys_gradient, values_gradient;
    keys_gradient.clear();
    values_gradient.clear();
    for (int half = 0; half < halves(shape); half++) {
        const bool is_clean_query = half == 0;
        const int begin = half_begin(is_clean_query, shape);
        // The clean half need not have queries.
        if (begin >= shape.rows) continue;
        const Sight sight = sight_of<QueriesOfKey>(own, is_clean_query, row_document, documents, shape);
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
            for (int first = sight.any.from; first < sight.any.to; first += OTHERS) {
                const int count = min(OTHERS, sight.any.to - first);
                const size_t row = begin + first;
                const size_t at = row * stride + head * head_dim;
                // All are done with the queries before.
                __syncthreads();
                load<OTHERS>(others, q + at, stride, count, head_dim);
                __syncthreads();
                float p[PER_THREAD][OTHERS / ACROSS];
                dot<OTHERS>(p, keys, others, head_dim);
                // All are done with the queries; they come again, which is less than room for both.
                __syncthreads();
                load<OTHERS>(others, dout + at, stride, count, head_dim);
                __syncthreads();
                float ds[PER_THREAD][OTHERS / ACROSS];
                dot<OTHERS>(ds, values, others, head_dim);
#pragma unroll
                for (int j = 0; j < OTHERS / ACROSS; j++) {
                    const int other = thread_across() + j * ACROSS;
                    const size_t of_query = (row + other) * shape.heads + head;
                    const float log_sum = other < count ? stats[of_query] : 0.0f;
                    const float along = other < count ? delta[of_query] : 0.0f;
#pragma unroll
                    for (int i = 0; i < PER_THREAD; i++) {
                        p[i][j] = sight.has(i, first + other) ? expf(p[i][j] * shape.scale - log_sum) : 0.0f;
                        ds[i][j] = p[i][j] * (ds[i][j] - along) * shape.scale;
                    }
                }
                show<OTHERS>(weights, p);
                __syncwarp();
                values_gradient.template add<OTHERS>(weights, others, head_dim);
                // All are done with the gradients and the probabilities.
                __syncthreads();
                show<OTHERS>(weights, ds);
                load<OTHERS>(others, q + at, stride, count, head_dim);
                __syncthreads();
                keys_gradient.template add<OTHERS>(weights, others, head_dim);
            }
        }
    }
    keys_gradient.store(dk + own_at, kv_stride, own.count, head_dim);
    values_gradient.store(dv + own_at, kv_stride, own.count, head_dim);
}

}  // namespace train_attention

extern "C" __global__ void __launch_bounds__(train_attention::THREADS, train_attention::LEAST_BLOCKS)
    train_attend(float* out, float* stats, const float* q, const float* k, const float* v, const int* row_document,
                 const int* documents, train_attention::TrainHeads shape) {
    using namespace train_attention;
    if (shape.head_dim <= NARROW) {
        attend<1, NARROW_OTHERS>(out, stats, q, k, v, row_document, documents, shape);
    } else {
        attend<2, WIDE_OTHERS>(out, stats, q, k, v, row_document, documents, shape);
    }
}

// A warp per row and head.
extern "C" __global__ void __launch_bounds__(train_attention::THREADS)
    train_attend_delta(float* delta, const float* dout, const float* out, train_attention::TrainHeads shape) {
    using namespace train_attention;
    const size_t at = static_cast<size_t>(blockIdx.x) * DELTA_WARPS + threadIdx.x / LANES;
    if (at >= static_cast<size_t>(shape.rows) * shape.heads) return;
    const int lane = threadIdx.x % LANES;
    float sum = 0.0f;
    for (int d = lane; d < shape.head_dim; d += LANES) {
        sum = fmaf(dout[at * shape.head_dim + d], out[at * shape.head_dim + d], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) delta[at] = sum;
}

extern "C" __global__ void __launch_bounds__(train_attention::THREADS, train_attention::LEAST_BLOCKS)
    train_attend_backward_queries(float* dq, const float* q, const float* k, const float* v, const float* dout,
                                  const float* stats, const float* delta, const int* row_document,
                                  const int* documents, train_attention::TrainHeads shape) {
    using namespace train_attention;
    if (shape.head_dim <= NARROW) {
        backward_queries<1, NARROW_OTHERS>(dq, q, k, v, dout, stats, delta, row_document, documents, shape);
    } else {
        backward_queries<2, WIDE_OTHERS>(dq, q, k, v, dout, stats, delta, row_document, documents, shape);
    }
}

extern "C" __global__ void __launch_bounds__(train_attention::THREADS, train_attention::LEAST_BLOCKS)
    train_attend_backward_keys(float* dk, float* dv, const float* q, const float* k, const float* v, const float* dout,
                               const float* stats, const float* delta, const int* row_document, const int* documents,
                               train_attention::TrainHeads shape) {
    using namespace train_attention;
    if (shape.head_dim <= NARROW) {
        backward_keys<1, NARROW_OTHERS>(dk, dv, q, k, v, dout, stats, delta, row_document, documents, shape);
    } else {
        backward_keys<2, WIDE_OTHERS>(dk, dv, q, k, v, dout, stats, delta, row_document, documents, shape);
    }
}
