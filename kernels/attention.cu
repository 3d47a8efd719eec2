// Attention of pieces of rows over pages of keys and values, without a matrix of scores in memory.
//
//   out[row][h] = Σ_p w[p]·V[p] / Σ_p w[p],  w[p] = exp(scale·q[row][h]·K[p] − largest),  p in [0, end)
//
// K and V are those of head h / group, where group = heads / kv_heads heads share keys. All rows of a piece see the
// same positions; position p lies in page tables[piece.table + p / 64] of the cache at p % 64. What lies behind `end`
// in the last page may be anything, NaN too: it is never read, zeros and scores of −∞ stand for it.
//
// Shapes  q [rows, heads, head_dim]; cache [pages, layers, kv_heads, 2 (K, V), 64, head_dim]; both bf16 or both f32;
//         out [rows, heads · head_dim] f32.
//         partial [rows, heads, 32 splits, head_dim] f32, not yet divided by the sums;
//         partial_stats [rows, heads, 32 splits] float2: the largest score times log2(e), and the sum of the weights.
//
// A piece's pages are shared out over splits, by `end` alone, and attend_combine joins them in their order: a row's
// bits depend neither on the rows beside it, nor on the other pieces, nor on the grid.
//
// attend_bf16_<head_dim>  block 128; grid (most pieces · tiles, kv_heads, z), tiles = ⌈most_rows · group / 64⌉, any z
//         from 1 to 32: a block takes the splits z apart, so fewer are better once the pieces fill the device;
//         dynamic shared memory 512 · head_dim bytes. Row r = i · group + g of a piece's matrix is row i, head g of
//         those that share keys. A block does 64 of its rows, a warp 16. Scores and weights stay in registers
//         (FlashAttention-2, arXiv 2307.08691); the weights are rounded to bf16, their sum is of what they were before.
// attend_combine          block 256; grid (most pieces · most_rows, ⌈heads / 8⌉); a warp per row and head.
// attend_f32              block 32;  grid (most pieces · most_rows, heads); dynamic shared memory 8 · head_dim bytes.
//         A warp per row and head, all sums in f64, two passes over the keys: to compare with, not for speed.
//
// Limits  rows ≥ 1 and end ≥ 1 of every piece, scale > 0; head_dim a multiple of 4 (attend_f32: any). q, cache and
//         partial begin at multiples of 16 bytes. With only_wanted, pieces that are not wanted are passed over and
//         their rows of `out` keep what they held.
#include "warps.cuh"

namespace attention {

// Rows of one block of positions that all see [0, end).
struct Piece {
    int first, rows, end, table, is_wanted;
};

// most_rows: the most rows of a piece.
struct AttendShape {
    int heads, kv_heads, head_dim, layers, layer, only_wanted, most_rows;
    float scale;
};

// Positions of a page of the cache.
constexpr int PAGE = 64;
// As many as a warp has lanes, so that a lane looks after a split in attend_combine.
constexpr int SPLITS = 32;
// Fewer pages do not repay the writing and joining of another split.
constexpr int LEAST_PAGES = 4;
// An mma's rows, of one warp; four warps already read each page from shared memory four times.
constexpr int WARP_ROWS = 16;
constexpr int WARPS = 4;
constexpr int THREADS = WARPS * LANES;
constexpr int TILE = WARPS * WARP_ROWS;
// One page is worked on while the next one arrives.
constexpr int STAGES = 2;
// Three blocks are what 64 KiB each (head_dim 128) leave room for on an H100.
constexpr int LEAST_BLOCKS = 3;
constexpr int COMBINE_WARPS = 8;
constexpr float LOG2_E = 1.4426950408889634f;
// bf16 numbers of a 16-byte copy, and bytes of the lines in which shared memory has all its banks.
constexpr int CHUNK = 8;
constexpr int LINE = 128;
// Chunks of a line, and the rows after which the order of chunks comes again.
constexpr int LINE_CHUNKS = LINE / 16;
constexpr int PLACED_ALIKE = LINE_CHUNKS;

__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }

struct Splits {
    int pages, pages_per_split, count;
};

__device__ __forceinline__ Splits splits_of(int end) {
    Splits splits;
    splits.pages = divide_up(end, PAGE);
    splits.pages_per_split = max(LEAST_PAGES, divide_up(splits.pages, SPLITS));
    splits.count = divide_up(splits.pages, splits.pages_per_split);
    return splits;
}

__device__ __forceinline__ bool is_passed_over(const Piece& piece, const AttendShape& shape) {
    return shape.only_wanted && !piece.is_wanted;
}

// One head's keys and values: those of a page come `page_len` elements behind those of the page before.
template <typename T>
struct HeadPages {
    const T* first;
    size_t page_len;

    // A page's keys of this head; its values lie behind them.
    __device__ __forceinline__ const T* at(uint32_t page) const { return first + page * page_len; }
};

template <typename T>
__device__ __forceinline__ HeadPages<T> head_pages(const T* cache, int head, int head_dim, const AttendShape& shape) {
    const size_t of_head = static_cast<size_t>(2) * PAGE * head_dim;
    return {cache + (static_cast<size_t>(shape.layer) * shape.kv_heads + head) * of_head,
            static_cast<size_t>(shape.layers) * shape.kv_heads * of_head};
}

// Where a chunk of a row of a page lies in shared memory, in elements: eight rows at one chunk, as ldmatrix reads
// them, lie in all banks. Rows PLACED_ALIKE apart have their chunks in the same order.
template <int HEAD_DIM>
__device__ __forceinline__ int placed(int row, int chunk) {
    constexpr int CHUNKS = HEAD_DIM / CHUNK;
    constexpr int SPREAD = CHUNKS < LINE_CHUNKS ? CHUNKS : LINE_CHUNKS;
    return row * HEAD_DIM + (chunk ^ (row % LINE_CHUNKS / (LINE_CHUNKS / SPREAD))) * CHUNK;
}

// Starts the copy of a page's keys and the values behind them, with zeros for positions from `seen` on.
template <int HEAD_DIM>
__device__ __forceinline__ void copy_page(uint16_t* keys, const uint16_t* page, int seen) {
    constexpr int CHUNKS = HEAD_DIM / CHUNK;
    constexpr int TURN_ROWS = THREADS / CHUNKS;
    // So that a thread's chunks lie at even distances, which costs no arithmetic.
    static_assert(TURN_ROWS % PLACED_ALIKE == 0 && PAGE % TURN_ROWS == 0, "a turn is placed like the one before");
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    uint16_t* const to = keys + placed<HEAD_DIM>(row, chunk);
    const uint16_t* const from = page + threadIdx.x * CHUNK;
#pragma unroll
    for (int turn = 0; turn < PAGE / TURN_ROWS; turn++) {
        const bool is_seen = row + turn * TURN_ROWS < seen;
        const int on = turn * TURN_ROWS * HEAD_DIM;
        copy_async16(to + on, from + on, is_seen);
        copy_async16(to + PAGE * HEAD_DIM + on, from + PAGE * HEAD_DIM + on, is_seen);
    }
    copy_async_commit();
}

// What a lane holds of its warp's 16 rows, laid out as mma's accumulators: rows lane / 4 and lane / 4 + 8.
template <int HEAD_DIM>
struct Held {
    float values[HEAD_DIM / 8][4];
    // In log2 units: the score times scale · log2(e).
    float largest[2];
    // Of this lane's columns only.
    float sum[2];
};

// Takes one page in: scores, weights, weighted values.
template <int HEAD_DIM>
__device__ __forceinline__ void take_page(Held<HEAD_DIM>& held, const uint32_t (&q)[HEAD_DIM / 16][4],
                                          const uint16_t* keys, const uint16_t* values, int seen, float scale_log2) {
    const int lane = threadIdx.x % LANES;
    // Of the four matrices an ldmatrix loads: the one this lane gives a row's address of, and which row.
    const int matrix = lane / 8, matrix_row = lane % 8;
    const int column = lane % 4 * 2;

    float scores[PAGE / 8][4];
#pragma unroll
    for (int n = 0; n < PAGE / 8; n++) {
        scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
#pragma unroll
        for (int n = 0; n < PAGE / 16; n++) {
            uint32_t b[4];
            ldmatrix_x4(b, keys + placed<HEAD_DIM>(n * 16 + matrix / 2 * 8 + matrix_row, k * 2 + matrix % 2));
            mma_bf16(scores[2 * n], q[k], {b[0], b[1]});
            mma_bf16(scores[2 * n + 1], q[k], {b[2], b[3]});
        }
    }
    if (seen < PAGE) {
#pragma unroll
        for (int n = 0; n < PAGE / 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                scores[n][e] = n * 8 + column + e % 2 < seen ? scores[n][e] : -INFINITY;
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < PAGE / 8; n++) {
            largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        // Four lanes have a row between them.
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
        largest = fmaxf(held.largest[half], largest * scale_log2);
        const float shrink = exp2_fast(held.largest[half] - largest);
        held.largest[half] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < PAGE / 8; n++) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                scores[n][e] = exp2_fast(fmaf(scores[n][e], scale_log2, -largest));
                sum += scores[n][e];
            }
        }
        held.sum[half] = held.sum[half] * shrink + sum;
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 8; d++) {
            held.values[d][2 * half] *= shrink;
            held.values[d][2 * half + 1] *= shrink;
        }
    }

#pragma unroll
    for (int k = 0; k < PAGE / 16; k++) {
        // Two tiles of accumulators are one tile of a left factor.
        const uint32_t weights[4] = {
            pack_bf16(scores[2 * k][0], scores[2 * k][1]),
            pack_bf16(scores[2 * k][2], scores[2 * k][3]),
            pack_bf16(scores[2 * k + 1][0], scores[2 * k + 1][1]),
            pack_bf16(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 16; d++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, values + placed<HEAD_DIM>(k * 16 + matrix % 2 * 8 + matrix_row, d * 2 + matrix / 2));
            mma_bf16(held.values[2 * d], weights, {b[0], b[1]});
            mma_bf16(held.values[2 * d + 1], weights, {b[2], b[3]});
        }
    }
}

template <int HEAD_DIM>
__device__ __forceinline__ void attend(float* partial, float* partial_stats, const uint16_t* q, const uint16_t* cache,
                                       const Piece* pieces, const uint32_t* tables, const int* piece_count,
                                       const AttendShape& shape) {
    const int group = shape.heads / shape.kv_heads;
    const int tiles = divide_up(shape.most_rows * group, TILE);
    const int piece_index = blockIdx.x / tiles;
    if (piece_index >= *piece_count) return;
    const Piece piece = pieces[piece_index];
    const int first_row = blockIdx.x % tiles * TILE;
    const int matrix_rows = piece.rows * group;
    const Splits splits = splits_of(piece.end);
    const int first_split = blockIdx.z;
    if (first_row >= matrix_rows || first_split >= splits.count || is_passed_over(piece, shape)) return;

    DYNAMIC_SHARED(attention_shared);
    // [stages][K, V][64][head_dim], chunks as `placed` says.
    uint16_t* const shared = reinterpret_cast<uint16_t*>(attention_shared);
    constexpr int MATRIX = PAGE * HEAD_DIM;

    const int lane = threadIdx.x % LANES;
    const int warp_row = first_row + threadIdx.x / LANES * WARP_ROWS;
    const int column = lane % 4 * 2;
    const int kv_head = blockIdx.y;
    // A warp without rows only helps to copy.
    const bool has_rows = warp_row < matrix_rows;
    bool is_row[2];
    int at[2];
    uint32_t queries[HEAD_DIM / 16][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = warp_row + lane / 4 + half * 8;
        is_row[half] = r < matrix_rows;
        at[half] = (piece.first + r / group) * shape.heads + kv_head * group + r % group;
        const uint32_t* row = reinterpret_cast<const uint32_t*>(q + static_cast<size_t>(at[half]) * HEAD_DIM + column);
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
            queries[k][half] = is_row[half] ? row[k * 8] : 0;
            queries[k][half + 2] = is_row[half] ? row[k * 8 + 4] : 0;
        }
    }
    const uint32_t* table = tables + piece.table;
    const HeadPages<uint16_t> kv = head_pages(cache, kv_head, HEAD_DIM, shape);
    const float scale_log2 = shape.scale * LOG2_E;

    for (int split = first_split; split < splits.count; split += gridDim.z) {
        const int begin = split * splits.pages_per_split;
        const int behind = min(begin + splits.pages_per_split, splits.pages);
        Held<HEAD_DIM> held;
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 8; d++) {
            held.values[d][0] = held.values[d][1] = held.values[d][2] = held.values[d][3] = 0.0f;
        }
        held.largest[0] = held.largest[1] = -INFINITY;
        held.sum[0] = held.sum[1] = 0.0f;

        // All are done with the pages of the split before.
        __syncthreads();
        copy_page<HEAD_DIM>(shared, kv.at(table[begin]), piece.end - begin * PAGE);
        // Looked up a page ahead, so that the next copy need not wait for it.
        uint32_t next = begin + 1 < behind ? table[begin + 1] : 0;
        for (int page = begin; page < behind; page++) {
            uint16_t* const now = shared + (page - begin) % STAGES * 2 * MATRIX;
            copy_async_wait<0>();
            // This page is there for all, and all are done with the one before.
            __syncthreads();
            if (page + 1 < behind) {
                uint16_t* const then = shared + (page + 1 - begin) % STAGES * 2 * MATRIX;
                copy_page<HEAD_DIM>(then, kv.at(next), piece.end - (page + 1) * PAGE);
                next = page + 2 < behind ? table[page + 2] : 0;
            }
            if (has_rows) {
                take_page<HEAD_DIM>(held, queries, now, now + MATRIX, piece.end - page * PAGE, scale_log2);
            }
        }

        if (!has_rows) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            held.sum[half] += __shfl_xor_sync(ALL_LANES, held.sum[half], 1);
            held.sum[half] += __shfl_xor_sync(ALL_LANES, held.sum[half], 2);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (!is_row[half]) continue;
            const size_t part = static_cast<size_t>(at[half]) * SPLITS + split;
            float* to = partial + part * HEAD_DIM + column;
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 8; d++) {
                *reinterpret_cast<float2*>(to + d * 8) =
                    make_float2(held.values[d][2 * half], held.values[d][2 * half + 1]);
            }
            if (lane % 4 == 0) {
                reinterpret_cast<float2*>(partial_stats)[part] = make_float2(held.largest[half], held.sum[half]);
            }
        }
    }
}

}  // namespace attention

#define ATTEND_BF16(HEAD_DIM)                                                                                        \
    extern "C" __global__ void __launch_bounds__(attention::THREADS, attention::LEAST_BLOCKS) attend_bf16_##HEAD_DIM( \
        float* partial, float* partial_stats, const uint16_t* q, const uint16_t* cache,                              \
        const attention::Piece* pieces, const uint32_t* tables, const int* piece_count,                              \
        attention::AttendShape shape) {                                                                              \
        attention::attend<HEAD_DIM>(partial, partial_stats, q, cache, pieces, tables, piece_count, shape);           \
    }

ATTEND_BF16(16)
ATTEND_BF16(32)
ATTEND_BF16(64)
ATTEND_BF16(128)
#undef ATTEND_BF16

// Joins a row's splits: each is shrunk from its own largest score to the largest of all.
extern "C" __global__ void __launch_bounds__(attention::COMBINE_WARPS* LANES)
    attend_combine(float* out, const float* partial, const float* partial_stats, const attention::Piece* pieces,
                   const int* piece_count, attention::AttendShape shape) {
    using namespace attention;
    const int piece_index = blockIdx.x / shape.most_rows;
    if (piece_index >= *piece_count) return;
    const Piece piece = pieces[piece_index];
    const int row = blockIdx.x % shape.most_rows;
    const int head = blockIdx.y * COMBINE_WARPS + threadIdx.x / LANES;
    if (row >= piece.rows || head >= shape.heads || is_passed_over(piece, shape)) return;

    const int lane = threadIdx.x % LANES;
    const int splits = splits_of(piece.end).count;
    const size_t at = static_cast<size_t>(piece.first + row) * shape.heads + head;
    const float2 stats = lane < splits ? reinterpret_cast<const float2*>(partial_stats)[at * SPLITS + lane]
                                       : make_float2(-INFINITY, 0.0f);
    float largest = stats.x;
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, step));
    const float weight = exp2_fast(stats.x - largest);
    float sum = weight * stats.y;
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);

    // Four columns a lane. Lanes behind the last column still give their split's weight to the others.
    for (int first = 0; first < shape.head_dim; first += 4 * LANES) {
        const int column = first + 4 * lane;
        const bool is_column = column < shape.head_dim;
        const float* from = partial + at * SPLITS * shape.head_dim + column;
        float4 joined = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (int split = 0; split < splits; split++) {
            const float of_split = __shfl_sync(ALL_LANES, weight, split);
            if (is_column) {
                const float4 value = *reinterpret_cast<const float4*>(from + split * shape.head_dim);
                joined.x = fmaf(of_split, value.x, joined.x);
                joined.y = fmaf(of_split, value.y, joined.y);
                joined.z = fmaf(of_split, value.z, joined.z);
                joined.w = fmaf(of_split, value.w, joined.w);
            }
        }
        if (is_column) {
            *reinterpret_cast<float4*>(out + at * shape.head_dim + column) =
                make_float4(joined.x / sum, joined.y / sum, joined.z / sum, joined.w / sum);
        }
    }
}

namespace attention {

// A query's score with the key of one position.
__device__ __forceinline__ float score_f32(const float* q, const HeadPages<float>& kv, const uint32_t* table,
                                           int position, const AttendShape& shape) {
    const float* key = kv.at(table[position / PAGE]) + position % PAGE * shape.head_dim;
    double sum = 0.0;
    for (int d = 0; d < shape.head_dim; d++) sum += static_cast<double>(q[d]) * key[d];
    return static_cast<float>(sum) * shape.scale;
}

}  // namespace attention

extern "C" __global__ void __launch_bounds__(LANES)
    attend_f32(float* out, const float* q, const float* cache, const attention::Piece* pieces, const uint32_t* tables,
               const int* piece_count, attention::AttendShape shape) {
    using namespace attention;
    const int piece_index = blockIdx.x / shape.most_rows;
    if (piece_index >= *piece_count) return;
    const Piece piece = pieces[piece_index];
    const int row = blockIdx.x % shape.most_rows;
    if (row >= piece.rows || is_passed_over(piece, shape)) return;

    const int head = blockIdx.y;
    const int lane = threadIdx.x;
    const HeadPages<float> kv = head_pages(cache, head / (shape.heads / shape.kv_heads), shape.head_dim, shape);
    const uint32_t* table = tables + piece.table;
    const size_t at = (static_cast<size_t>(piece.first + row) * shape.heads + head) * shape.head_dim;

    float largest = -INFINITY;
    for (int position = lane; position < piece.end; position += LANES) {
        largest = fmaxf(largest, score_f32(q + at, kv, table, position, shape));
    }
    for (int step = LANES / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, step));

    DYNAMIC_SHARED(attention_shared);
    // [head_dim]; a lane only touches its own columns, so no barrier is needed.
    double* const values = reinterpret_cast<double*>(attention_shared);
    for (int d = lane; d < shape.head_dim; d += LANES) values[d] = 0.0;
    double sum = 0.0;
    for (int first = 0; first < piece.end; first += LANES) {
        const int count = min(LANES, piece.end - first);
        float weight = 0.0f;
        if (lane < count) {
            weight = expf(score_f32(q + at, kv, table, first + lane, shape) - largest);
        }
        // A page holds a whole number of these runs, so they all lie in one.
        const float* run = kv.at(table[first / PAGE]) + (PAGE + first % PAGE) * shape.head_dim;
        for (int i = 0; i < count; i++) {
            const double of_position = __shfl_sync(ALL_LANES, weight, i);
            sum += of_position;
            for (int d = lane; d < shape.head_dim; d += LANES) values[d] += of_position * run[i * shape.head_dim + d];
        }
    }
    for (int d = lane; d < shape.head_dim; d += LANES) out[at + d] = static_cast<float>(values[d] / sum);
}
