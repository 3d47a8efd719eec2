// Linear layers: y = x·wᵀ (+ bias), of all rows with one weight or of each expert's rows with its own.
//
// The weight is the left matrix of the tensor-core instruction (16 outputs), the rows the right one (8 rows), so few
// rows waste little. Weights lie in memory as the instruction wants them: `[tile of 16 outputs][step][lane]`, a step
// being 32 bytes of a row of x, so a warp reads them once, straight into registers, in whole lines:
//   q8   16 bytes a lane (m16n8k32, s8), scales f32 [output]; x in s8, scales [row]
//   q4    8 bytes a lane, 16 codes: the first register's four in the low half of a word, the second's in the high half;
//        scales bf16 [tile][step][16]; x in s8, scales [row][step]
//   bf16 16 bytes a lane (m16n8k16); x in bf16
//   f32  row-major, sums in f64, for comparing with references only
// The eight warps of a block take steps in turn and add up in their order, whatever the tile: a row's result depends
// on nothing but the row. Rows go through shared memory in two stages.
//
// Grid: (ceil(tiles / M), experts or 1, pieces of rows); block: 256; dynamic shared memory: the larger of
// the two stages, 2 · 8·N · (256·U + 16) bytes, and of the warps' sums, 4,096 · N · tiles that are finished together.
// The rows of expert e are bounds[e]..bounds[e + 1]; a block takes every gridDim.z-th piece of 8·N of them.
// The gated form has a tile of gates, then one of the same outputs' ups: y = silu(g)·u.
// The head form writes of each row and 64 tokens the likeliest, its logit and Σ e^(logit − largest): no logits.
// Levels of 4 bits: src/engine/ops/quantized/four_bits.rs. Fragments: PTX ISA, "matrix fragments for mma".
#include "warps.cuh"

namespace linear {

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
// Outputs of a matrix instruction.
constexpr int TILE = 16;
// Rows of x of a matrix instruction.
constexpr int COLUMNS = 8;
// Bytes of a row of x that it takes.
constexpr int STEP = 32;
// Behind each row in shared memory, so that eight rows lie in different banks.
constexpr int PAD = 16;
// Numbers of a lane's part of a result.
constexpr int PARTS = 4;

struct Weight {
    const void* words;
    const void* scales;
    // [output], or null.
    const float* bias;
};

// What the head says of a row and some tokens.
struct Peak {
    float value;
    float sum;
    uint32_t token;
};

struct Linear {
    Weight one;
    // Of each expert; null when there is one weight.
    const Weight* many;
    // [experts + 1]: where the rows of each begin.
    const int* bounds;
    // Which rows of x they are; null for their own numbers.
    const uint32_t* gather;
    const void* x;
    const float* x_scales;
    float* y;
    Peak* peaks;
    // Tokens that a row may not have: closed[closed_starts[row]..closed_starts[row + 1]].
    const int* closed_starts;
    const uint32_t* closed;
    // Of a row, 32 bytes each; rows have no more. In f32, how many numbers.
    int steps;
    // Of a gated form, those of the gate.
    int outputs;
    int tiles;
};

struct Bf16 {
    typedef float Sum;
    struct Fragment {
        uint32_t a[4];
    };
    static __device__ __forceinline__ void load(Fragment& f, const Weight& w, size_t at, int lane) {
        const uint4 words = load_stream(static_cast<const uint4*>(w.words) + at * 32 + lane);
        f.a[0] = words.x, f.a[1] = words.y, f.a[2] = words.z, f.a[3] = words.w;
    }
    static __device__ __forceinline__ void multiply(
        Sum (&sums)[PARTS], const Fragment& f, const uint32_t (&b)[2], float, float) {
        mma_bf16(sums, f.a, b);
    }
    static __device__ __forceinline__ float scale(const Linear&, int, int) { return 1.0f; }
    static __device__ __forceinline__ float value(Sum sum, const Linear&, const Weight&, int, int) { return sum; }
};

struct Q8 {
    typedef int Sum;
    typedef Bf16::Fragment Fragment;
    static __device__ __forceinline__ void load(Fragment& f, const Weight& w, size_t at, int lane) {
        Bf16::load(f, w, at, lane);
    }
    static __device__ __forceinline__ void multiply(
        Sum (&sums)[PARTS], const Fragment& f, const uint32_t (&b)[2], float, float) {
        mma_s8(sums, f.a, b);
    }
    static __device__ __forceinline__ float scale(const Linear&, int, int) { return 1.0f; }
    static __device__ __forceinline__ float value(Sum sum, const Linear& a, const Weight& w, int output, int row) {
        return static_cast<float>(sum) * (static_cast<const float*>(w.scales)[output] * a.x_scales[row]);
    }
};

// Four levels for the four codes in the low half of a word.
__device__ __forceinline__ uint32_t levels(uint32_t codes) {
    // −127 −100 −81 −64, −50 −37 −24 −12, 0 12 25 38, 52 67 86 110 from the lowest byte on.
    constexpr uint32_t FIRST = 0xC0AF9C81, SECOND = 0xF4E8DBCE, THIRD = 0x26190C00, FOURTH = 0x6E564334;
    const uint32_t low = __byte_perm(FIRST, SECOND, codes & 0x7777);
    const uint32_t high = __byte_perm(THIRD, FOURTH, codes & 0x7777);
    // A code's highest bit takes its byte of the upper eight.
    return __byte_perm(low, high, 0x3210 | ((codes >> 1) & 0x4444));
}

struct Q4 {
    typedef float Sum;
    struct Fragment {
        uint2 codes;
        float scales[2];
    };
    static __device__ __forceinline__ void load(Fragment& f, const Weight& w, size_t at, int lane) {
        f.codes = __ldg(static_cast<const uint2*>(w.words) + at * 32 + lane);
        const uint16_t* scales = static_cast<const uint16_t*>(w.scales) + at * TILE + lane / 4;
        f.scales[0] = from_bf16(scales[0]);
        f.scales[1] = from_bf16(scales[TILE / 2]);
    }
    static __device__ __forceinline__ void multiply(
        Sum (&sums)[PARTS], const Fragment& f, const uint32_t (&b)[2], float left, float right) {
        const uint32_t a[4] = {
            levels(f.codes.x), levels(f.codes.x >> 16), levels(f.codes.y), levels(f.codes.y >> 16)};
        int whole[PARTS] = {0, 0, 0, 0};
        mma_s8(whole, a, b);
        sums[0] = fmaf(static_cast<float>(whole[0]), f.scales[0] * left, sums[0]);
        sums[1] = fmaf(static_cast<float>(whole[1]), f.scales[0] * right, sums[1]);
        sums[2] = fmaf(static_cast<float>(whole[2]), f.scales[1] * left, sums[2]);
        sums[3] = fmaf(static_cast<float>(whole[3]), f.scales[1] * right, sums[3]);
    }
    // The scale of a row of x at a step.
    static __device__ __forceinline__ float scale(const Linear& a, int row, int step) {
        return __ldg(a.x_scales + static_cast<size_t>(row) * a.steps + step);
    }
    static __device__ __forceinline__ float value(Sum sum, const Linear&, const Weight&, int, int) { return sum; }
};

// Which row of x a slot is.
__device__ __forceinline__ int row_of(const Linear& a, int slot) {
    return a.gather ? static_cast<int>(a.gather[slot]) : slot;
}

// What becomes of the results. `G` tiles are finished together.
struct Store {
    static constexpr int G = 1;
    __device__ void finish(const Linear& a, const Weight& w, const float (&v)[1], int output, int slot, int) {
        if (output < a.outputs) {
            a.y[static_cast<size_t>(slot) * a.outputs + output] = v[0] + (w.bias ? w.bias[output] : 0.0f);
        }
    }
    __device__ void end(const Linear&, int, int, int) {}
};

struct Add {
    static constexpr int G = 1;
    __device__ void finish(const Linear& a, const Weight& w, const float (&v)[1], int output, int slot, int) {
        if (output < a.outputs) {
            a.y[static_cast<size_t>(slot) * a.outputs + output] += v[0] + (w.bias ? w.bias[output] : 0.0f);
        }
    }
    __device__ void end(const Linear&, int, int, int) {}
};

struct Gated {
    static constexpr int G = 2;
    __device__ void finish(const Linear& a, const Weight& w, const float (&v)[2], int output, int slot, int) {
        if (output < a.outputs) {
            const float gate = v[0] + (w.bias ? w.bias[output] : 0.0f);
            const float up = v[1] + (w.bias ? w.bias[a.outputs + output] : 0.0f);
            a.y[static_cast<size_t>(slot) * a.outputs + output] = gate * sigmoid(gate) * up;
        }
    }
    __device__ void end(const Linear&, int, int, int) {}
};

// The same in f64.
struct GatedExactly {
    static constexpr int G = 2;
    __device__ void finish(const Linear& a, const Weight& w, const float (&v)[2], int output, int slot, int) {
        if (output < a.outputs) {
            const double gate = v[0] + (w.bias ? w.bias[output] : 0.0f);
            const float up = v[1] + (w.bias ? w.bias[a.outputs + output] : 0.0f);
            a.y[static_cast<size_t>(slot) * a.outputs + output] =
                static_cast<float>(gate / (1.0 + exp(-gate)) * static_cast<double>(up));
        }
    }
    __device__ void end(const Linear&, int, int, int) {}
};

// The better of two peaks with the sum of both; of equal logits the first token.
__device__ __forceinline__ Peak better(const Peak& a, const Peak& b) {
    const bool is_first = a.value > b.value || (a.value == b.value && a.token < b.token);
    Peak best = is_first ? a : b;
    const Peak& other = is_first ? b : a;
    if (other.value > -INFINITY) best.sum += other.sum * expf(other.value - best.value);
    return best;
}

// Rows of a thread in the head form with up to eight instructions side by side.
constexpr int MOST_HEAD_ROWS = 8 * COLUMNS / (THREADS / TILE);

struct Head {
    static constexpr int G = 1;
    Peak peaks[MOST_HEAD_ROWS];
    __device__ Head() {
        for (int i = 0; i < MOST_HEAD_ROWS; i++) peaks[i] = Peak{-INFINITY, 0.0f, 0xffffffffu};
    }
    __device__ void finish(const Linear& a, const Weight& w, const float (&v)[1], int output, int slot, int turn) {
        float logit = output < a.outputs ? v[0] + (w.bias ? w.bias[output] : 0.0f) : -INFINITY;
        for (int i = a.closed_starts[slot]; i < a.closed_starts[slot + 1]; i++) {
            if (a.closed[i] == static_cast<uint32_t>(output)) logit = -INFINITY;
        }
        const Peak mine = {logit, logit > -INFINITY ? 1.0f : 0.0f, static_cast<uint32_t>(output)};
        peaks[turn] = better(peaks[turn], mine);
    }
    // Puts the sixteen lanes of a row together.
    __device__ void end(const Linear& a, int slot, int turn, int output) {
        Peak mine = peaks[turn];
        for (int apart = TILE / 2; apart > 0; apart /= 2) {
            Peak other;
            other.value = __shfl_xor_sync(0xffffffffu, mine.value, apart);
            other.sum = __shfl_xor_sync(0xffffffffu, mine.sum, apart);
            other.token = __shfl_xor_sync(0xffffffffu, mine.token, apart);
            mine = better(mine, other);
        }
        if (output == 0 && slot >= 0) a.peaks[static_cast<size_t>(slot) * gridDim.x + blockIdx.x] = mine;
        peaks[turn] = Peak{-INFINITY, 0.0f, 0xffffffffu};
    }
};

// M tiles of outputs, N instructions side by side, U steps of a warp in a stage.
template <class F, int M, int N, int U, class Form>
__device__ __forceinline__ void multiply(const Linear& a) {
    constexpr int ROWS = COLUMNS * N;
    constexpr int CHUNK = WARPS * U;
    constexpr int ROW_BYTES = CHUNK * STEP + PAD;
    constexpr int G = Form::G;
    static_assert(M % G == 0, "tiles are finished in groups");
    DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int end = a.bounds[blockIdx.y + 1];
    const int begin = a.bounds[blockIdx.y] + blockIdx.z * ROWS;
    if (begin >= end) return;
    const Weight w = a.many ? a.many[blockIdx.y] : a.one;
    const int row_bytes = a.steps * STEP;
    const int chunks = (a.steps + CHUNK - 1) / CHUNK;
    Form form;

    for (int first = begin; first < end; first += gridDim.z * ROWS) {
        typename F::Sum sums[M][N][PARTS];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int p = 0; p < PARTS; p++) sums[m][n][p] = 0;

        auto stage = [&](int chunk) {
            unsigned char* to = shared + (chunk % 2) * ROWS * ROW_BYTES;
            for (int i = threadIdx.x; i < ROWS * CHUNK * 2; i += THREADS) {
                const int row = i / (CHUNK * 2), at = i % (CHUNK * 2) * 16;
                const int from = chunk * CHUNK * STEP + at;
                const bool is_there = first + row < end && from < row_bytes;
                const size_t source = is_there ? static_cast<size_t>(row_of(a, first + row)) * row_bytes + from : 0;
                copy_async16(to + row * ROW_BYTES + at, static_cast<const unsigned char*>(a.x) + source, is_there);
            }
        };
        typename F::Fragment now[M][U], next[M][U];
        auto load = [&](typename F::Fragment(&fragments)[M][U], int chunk) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                // A tile behind the last is computed like it and not written.
                const int tile = min(static_cast<int>(blockIdx.x) * M + m, a.tiles - 1);
#pragma unroll
                for (int u = 0; u < U; u++) {
                    const int step = chunk * CHUNK + u * WARPS + warp;
                    if (step < a.steps) F::load(fragments[m][u], w, static_cast<size_t>(tile) * a.steps + step, lane);
                }
            }
        };

        load(now, 0);
        stage(0);
        copy_async_commit();
        for (int chunk = 0; chunk < chunks; chunk++) {
            const bool has_next = chunk + 1 < chunks;
            if (has_next) {
                stage(chunk + 1);
                load(next, chunk + 1);
            }
            copy_async_commit();
            copy_async_wait<1>();
            __syncthreads();
            const unsigned char* x = shared + (chunk % 2) * ROWS * ROW_BYTES;
#pragma unroll
            for (int u = 0; u < U; u++) {
                const int of_chunk = u * WARPS + warp, step = chunk * CHUNK + of_chunk;
                if (step >= a.steps) continue;
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const unsigned char* row = x + (n * COLUMNS + lane / 4) * ROW_BYTES + of_chunk * STEP + lane % 4 * 4;
                    const uint32_t b[2] = {
                        *reinterpret_cast<const uint32_t*>(row), *reinterpret_cast<const uint32_t*>(row + STEP / 2)};
                    // The rows of a lane's results; those behind the end take the last one's scale.
                    const int left = min(first + n * COLUMNS + lane % 4 * 2, end - 1);
                    const int right = min(left + 1, end - 1);
                    const float left_scale = F::scale(a, row_of(a, left), step);
                    const float right_scale = F::scale(a, row_of(a, right), step);
#pragma unroll
                    for (int m = 0; m < M; m++) F::multiply(sums[m][n], now[m][u], b, left_scale, right_scale);
                }
            }
            __syncthreads();
            if (has_next) {
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int u = 0; u < U; u++) now[m][u] = next[m][u];
            }
        }

        // The warps' sums go through shared memory: [warp][tile of G][n][part][lane].
        typename F::Sum* kept = reinterpret_cast<typename F::Sum*>(shared);
        constexpr int OF_WARP = G * N * PARTS * 32;
        const int output_in_tile = threadIdx.x % TILE;
#pragma unroll
        for (int group = 0; group < M / G; group++) {
#pragma unroll
            for (int g = 0; g < G; g++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int p = 0; p < PARTS; p++) {
                        kept[warp * OF_WARP + ((g * N + n) * PARTS + p) * 32 + lane] = sums[group * G + g][n][p];
                    }
            __syncthreads();
            const int tile = blockIdx.x * M + group * G;
            const int output = tile / G * TILE + output_in_tile;
#pragma unroll
            for (int turn = 0; turn * (THREADS / TILE) < ROWS; turn++) {
                const int column = turn * (THREADS / TILE) + threadIdx.x / TILE;
                const int slot = first + column;
                if (column >= ROWS || slot >= end || tile >= a.tiles) continue;
                float values[G];
#pragma unroll
                for (int g = 0; g < G; g++) {
                    // Where the instruction leaves an output of a row.
                    const int part = output_in_tile / 8 * 2 + column % 2;
                    const int holder = output_in_tile % 8 * 4 + column % COLUMNS / 2;
                    const int at = ((g * N + column / COLUMNS) * PARTS + part) * 32 + holder;
                    typename F::Sum sum = kept[at];
#pragma unroll
                    for (int other = 1; other < WARPS; other++) sum += kept[other * OF_WARP + at];
                    values[g] = F::value(sum, a, w, (tile + g) * TILE + output_in_tile, row_of(a, slot));
                }
                form.finish(a, w, values, output, slot, turn);
            }
            __syncthreads();
        }
#pragma unroll
        for (int turn = 0; turn * (THREADS / TILE) < ROWS; turn++) {
            const int column = turn * (THREADS / TILE) + threadIdx.x / TILE;
            const bool is_there = column < ROWS && first + column < end;
            form.end(a, is_there ? first + column : -1, turn, output_in_tile);
        }
    }
}

// Of a thread: one output of one row, in 64 bits. Tiles of sixteen outputs and sixteen rows.
template <class Form>
__device__ __forceinline__ void multiply_exactly(const Linear& a) {
    constexpr int G = Form::G;
    constexpr int ROWS = THREADS / TILE;
    const int end = a.bounds[blockIdx.y + 1];
    const Weight w = a.many ? a.many[blockIdx.y] : a.one;
    const int output_in_tile = threadIdx.x % TILE, output = blockIdx.x * TILE + output_in_tile;
    Form form;
    for (int first = a.bounds[blockIdx.y] + blockIdx.z * ROWS; first < end; first += gridDim.z * ROWS) {
        const int slot = first + threadIdx.x / TILE;
        if (slot < end) {
            const float* x = static_cast<const float*>(a.x) + static_cast<size_t>(row_of(a, slot)) * a.steps;
            float values[G];
            for (int g = 0; g < G; g++) {
                double sum = 0.0;
                // What is behind the last output is computed like it and not written.
                const size_t row = static_cast<size_t>(g) * a.outputs + min(output, a.outputs - 1);
                const float* weight = static_cast<const float*>(w.words) + row * a.steps;
                for (int i = 0; i < a.steps; i++) sum += static_cast<double>(x[i]) * static_cast<double>(weight[i]);
                values[g] = static_cast<float>(sum);
            }
            form.finish(a, w, values, output, slot, 0);
        }
        form.end(a, slot < end ? slot : -1, 0, output_in_tile);
    }
}

}  // namespace linear

// Few rows, some rows, many rows; U as large as registers allow, for bytes in flight.
#define LINEAR(NAME, FORMAT, FORM, M, N, U)                                                        \
    extern "C" __global__ void __launch_bounds__(linear::THREADS) NAME(linear::Linear arguments) { \
        linear::multiply<linear::FORMAT, M, N, U, linear::FORM>(arguments);                        \
    }
#define LINEARS(FORMAT, NAME)                                  \
    LINEAR(linear_##NAME##_store_few, FORMAT, Store, 1, 1, 4)  \
    LINEAR(linear_##NAME##_store_some, FORMAT, Store, 1, 4, 4) \
    LINEAR(linear_##NAME##_store_many, FORMAT, Store, 4, 8, 1) \
    LINEAR(linear_##NAME##_add_some, FORMAT, Add, 1, 4, 4)     \
    LINEAR(linear_##NAME##_add_many, FORMAT, Add, 4, 8, 1)     \
    LINEAR(linear_##NAME##_gated_few, FORMAT, Gated, 2, 1, 4)  \
    LINEAR(linear_##NAME##_gated_some, FORMAT, Gated, 2, 4, 2) \
    LINEAR(linear_##NAME##_gated_many, FORMAT, Gated, 4, 8, 1) \
    LINEAR(linear_##NAME##_head_some, FORMAT, Head, 4, 4, 1)

LINEARS(Bf16, bf16)
LINEARS(Q8, q8)
LINEARS(Q4, q4)

#define EXACT(NAME, FORM)                                                                          \
    extern "C" __global__ void __launch_bounds__(linear::THREADS) NAME(linear::Linear arguments) { \
        linear::multiply_exactly<linear::FORM>(arguments);                                         \
    }
EXACT(linear_f32_store, Store)
EXACT(linear_f32_add, Add)
EXACT(linear_f32_gated, GatedExactly)
EXACT(linear_f32_head, Head)

// Puts the peaks of a row together: block per row; token and probability of the likeliest.
extern "C" __global__ void __launch_bounds__(linear::THREADS) head_reduce(
    uint32_t* tokens, float* probabilities, const linear::Peak* peaks, const int* rows, int groups) {
    using namespace linear;
    const int row = blockIdx.x;
    if (row >= *rows) return;
    __shared__ Peak of_warps[WARPS];
    Peak mine = {-INFINITY, 0.0f, 0xffffffffu};
    for (int i = threadIdx.x; i < groups; i += THREADS) mine = better(mine, peaks[static_cast<size_t>(row) * groups + i]);
    for (int apart = 16; apart > 0; apart /= 2) {
        Peak other;
        other.value = __shfl_xor_sync(0xffffffffu, mine.value, apart);
        other.sum = __shfl_xor_sync(0xffffffffu, mine.sum, apart);
        other.token = __shfl_xor_sync(0xffffffffu, mine.token, apart);
        mine = better(mine, other);
    }
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < WARPS; warp++) mine = better(mine, of_warps[warp]);
    tokens[row] = mine.token;
    probabilities[row] = 1.0f / mine.sum;
}
