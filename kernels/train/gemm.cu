// Products of the trainer: forward, gradient of the input, gradient of the weight; dense, or of each expert its own.
//
//   train_linear_*  c[r][o] (+)= scale · Σ_i a[row(r)][i] · b[o][i]        o < columns, i < depth
//   train_input_*   c[r][i] (+)= scale · Σ_o a[row(r)][o] · b[o][i]        i < columns, o < depth
//   train_weight_*  c[o][i] (+)= scale · Σ_r a[row(r)][o] · b[row'(r)][i]  o < rows, i < columns
//
// All matrices are f32, row-major, their rows a_stride, b_stride, c_stride apart. r runs over `rows` (in train_weight_*
// over `depth`), or with `bounds` i32 [experts + 1] over expert e's slots bounds[e]..bounds[e + 1]; then an expert has
// its own b, b_of_expert numbers behind the one before (in train_weight_* its own c, c_of_expert apart).
// row(r) = a_rows[r], row'(r) = b_rows[r], or r where they are null; c is indexed by r itself. An expert without slots
// has sums of zero.
//
// bf16: factors are rounded to bf16 on their way to shared memory, tensor cores (m16n8k16), sums in f32.
// f32: nothing is rounded, one sum a thread in order of the depth; for routers and for comparing.
// A result's sum runs over the depth in steps of 32 and is never split: its bits depend on its own factors alone.
//
// Grid: (ceil(columns / 64), ceil(most rows / 64), experts or 1); a smaller y does too, a block then takes every
// gridDim.y-th tile. Block: 128 threads; no dynamic shared memory. A tile is 64 × 64, in two stages of 32 steps: while
// one is multiplied, the next is on its way in registers. Four numbers are read together of a matrix that begins at a
// multiple of 16 bytes and whose stride and width are multiples of 4. c must overlap neither factor.
// CPU twin: src/engine/ops/matmul.rs. Fragments: PTX ISA, "matrix fragments for mma" and "ldmatrix".
#include "../primitives.cuh"

namespace train_gemm {

constexpr int THREADS = 128;
// That a multiprocessor shall hold at once, which leaves a thread 128 registers.
constexpr int BLOCKS = 4;
// Rows and columns of the result that a block makes together.
constexpr int TILE = 64;
// Of the depth in a stage.
constexpr int STEP = 32;
constexpr int STAGES = 2;
// Numbers read together.
constexpr int FOUR = 4;
// Fours that a thread carries of each factor's stage.
constexpr int CARRIED = TILE * STEP / FOUR / THREADS;

// What the host passes: 104 bytes. `gap` is not read.
struct Product {
    const float* a;
    const float* b;
    float* c;
    const int* a_rows;
    const int* b_rows;
    const int* bounds;
    long long b_of_expert, c_of_expert;
    int rows, columns, depth, a_stride, b_stride, c_stride, is_added;
    float scale;
    int gap;
};

struct Range {
    int begin, end;
};

__device__ __forceinline__ bool begins_at(const void* pointer, int bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// One factor on its way from memory. A line is a row or column of the result. ALONG: a line's depth lies one behind the
// other in memory; else the lines of one place of the depth do.
template <bool ALONG>
struct Factor {
    // Fours of a row of memory that belong to a stage.
    static constexpr int FOURS = (ALONG ? STEP : TILE) / FOUR;

    const float* from;
    const int* rows;
    size_t stride;
    bool is_in_fours;
    // Of the tile: the first line, and the end of all.
    Range lines;
    Range depth;
    // ALONG: where the thread's lines begin; null behind the last.
    const float* starts[CARRIED];

    // `width`: numbers of a row of memory. When it is made of fours, each four is there or it is not.
    __device__ Factor(const float* from, const int* rows, int stride, int width, Range depth)
        : from(from), rows(rows), stride(stride),
          is_in_fours(begins_at(from, 16) && stride % FOUR == 0 && width % FOUR == 0), depth(depth) {}

    // Which four of a stage is the thread's `i`-th: the row of memory, and where in it.
    static __device__ __forceinline__ int row_of(int i) {
        return (i * THREADS + static_cast<int>(threadIdx.x)) / FOURS;
    }
    static __device__ __forceinline__ int place() { return static_cast<int>(threadIdx.x) % FOURS * FOUR; }

    __device__ __forceinline__ const float* row(int number) const {
        return from + (rows ? __ldg(rows + number) : number) * stride;
    }

    __device__ __forceinline__ void start(Range tile) {
        lines = tile;
        if constexpr (ALONG) {
#pragma unroll
            for (int i = 0; i < CARRIED; i++) {
                const int line = lines.begin + row_of(i);
                starts[i] = line < lines.end ? row(line) : nullptr;
            }
        }
    }

    // Zeros are what is not there: they leave sums as they are.
    __device__ __forceinline__ void fetch(float4 (&fours)[CARRIED], int step) const {
        const int at = (ALONG ? step : lines.begin) + place();
        const int count = (ALONG ? depth.end : lines.end) - at;
        const float* begins[CARRIED];
#pragma unroll
        for (int i = 0; i < CARRIED; i++) {
            fours[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if constexpr (ALONG) {
                begins[i] = starts[i];
            } else {
                const int number = step + row_of(i);
                begins[i] = number < depth.end ? row(number) : nullptr;
            }
        }
        // Outside of the loop, so that all loads are on their way together.
        if (is_in_fours) {
#pragma unroll
            for (int i = 0; i < CARRIED; i++) {
                if (begins[i] && count > 0) fours[i] = __ldg(reinterpret_cast<const float4*>(begins[i] + at));
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < CARRIED; i++) {
            if (begins[i] && count > 0) fours[i].x = __ldg(begins[i] + at);
            if (begins[i] && count > 1) fours[i].y = __ldg(begins[i] + at + 1);
            if (begins[i] && count > 2) fours[i].z = __ldg(begins[i] + at + 2);
            if (begins[i] && count > 3) fours[i].w = __ldg(begins[i] + at + 3);
        }
    }
};

struct Bf16 {
    static constexpr int WARPS_ACROSS = 2;
    // A warp's part of the tile: 32 × 32, in instructions of 16 × 8.
    static constexpr int PART = TILE / WARPS_ACROSS;
    static constexpr int DOWN = PART / 16, ACROSS = PART / 8;
    // Depth of an instruction, and rows of a matrix of `ldmatrix`.
    static constexpr int DEPTH = 16, EIGHT = 8;

    // A stage of a factor, as in memory: [line][depth] or [depth][line], with 16 bytes behind each row, so that eight
    // rows lie in different banks.
    template <bool ALONG>
    struct Stage {
        static constexpr int ROW = (ALONG ? STEP : TILE) + 8;
        uint16_t values[(ALONG ? TILE : STEP) * ROW];

        __device__ __forceinline__ void put(const float4 (&fours)[CARRIED]) {
#pragma unroll
            for (int i = 0; i < CARRIED; i++) {
                uint16_t* to = values + Factor<ALONG>::row_of(i) * ROW + Factor<ALONG>::place();
                const float4 four = fours[i];
                *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(four.x, four.y), pack_bf16(four.z, four.w));
            }
        }

        // Sixteen lines by sixteen of the depth, as four matrices of 8 × 8. LINES_FIRST: the second one has the next
        // lines (as the left factor wants it), else the next of the depth (the right one, for two instructions).
        template <bool LINES_FIRST>
        __device__ __forceinline__ void load(uint32_t (&registers)[4], int line, int depth) const {
            const int lane = threadIdx.x % 32;
            const int second = lane / EIGHT % 2 * EIGHT, third = lane / EIGHT / 2 * EIGHT;
            line += LINES_FIRST ? second : third;
            depth += LINES_FIRST ? third : second;
            if (ALONG) {
                ldmatrix_x4(registers, values + (line + lane % EIGHT) * ROW + depth);
            } else {
                ldmatrix_x4_trans(registers, values + (depth + lane % EIGHT) * ROW + line);
            }
        }
    };

    float sums[DOWN][ACROSS][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < DOWN; m++)
#pragma unroll
            for (int n = 0; n < ACROSS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][n][i] = 0.0f;
    }

    static __device__ __forceinline__ int first_row() { return threadIdx.x / 32 / WARPS_ACROSS * PART; }
    static __device__ __forceinline__ int first_column() { return threadIdx.x / 32 % WARPS_ACROSS * PART; }

    template <class A, class B>
    __device__ __forceinline__ void multiply(const A& a, const B& b) {
#pragma unroll
        for (int depth = 0; depth < STEP; depth += DEPTH) {
            uint32_t left[DOWN][4], right[ACROSS / 2][4];
#pragma unroll
            for (int m = 0; m < DOWN; m++) a.template load<true>(left[m], first_row() + m * 16, depth);
#pragma unroll
            for (int n = 0; n < ACROSS / 2; n++) b.template load<false>(right[n], first_column() + n * 16, depth);
#pragma unroll
            for (int m = 0; m < DOWN; m++)
#pragma unroll
                for (int n = 0; n < ACROSS; n++) {
                    const uint32_t pair[2] = {right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]};
                    mma_bf16(sums[m][n], left[m], pair);
                }
        }
    }

    // Calls visit(row, column, sum, sum of the next column) for each pair of the thread's results; columns are even.
    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < DOWN; m++)
#pragma unroll
            for (int n = 0; n < ACROSS; n++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    visit(first_row() + m * 16 + half * 8 + lane / 4, first_column() + n * 8 + lane % 4 * 2,
                          sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
                }
    }
};

struct F32 {
    // Of the block's threads; a thread has 8 rows and 4 columns, columns in pairs of neighbours.
    static constexpr int THREADS_ACROSS = 16, THREADS_DOWN = THREADS / THREADS_ACROSS;
    static constexpr int DOWN = TILE / THREADS_DOWN, ACROSS = TILE / THREADS_ACROSS;

    // [depth][line], whatever it is in memory. The odd row keeps those that write a line's depth in different banks.
    template <bool ALONG>
    struct Stage {
        static constexpr int ROW = TILE + 1;
        float values[STEP * ROW];

        __device__ __forceinline__ void put(const float4 (&fours)[CARRIED]) {
            constexpr int NEXT = ALONG ? ROW : 1;
#pragma unroll
            for (int i = 0; i < CARRIED; i++) {
                const int row = Factor<ALONG>::row_of(i), place = Factor<ALONG>::place();
                float* to = values + (ALONG ? place * ROW + row : row * ROW + place);
                to[0] = fours[i].x, to[NEXT] = fours[i].y, to[2 * NEXT] = fours[i].z, to[3 * NEXT] = fours[i].w;
            }
        }
    };

    float sums[DOWN][ACROSS];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < DOWN; m++)
#pragma unroll
            for (int n = 0; n < ACROSS; n++) sums[m][n] = 0.0f;
    }

    static __device__ __forceinline__ int row(int m) { return threadIdx.x / THREADS_ACROSS + m * THREADS_DOWN; }
    static __device__ __forceinline__ int column(int n) {
        return threadIdx.x % THREADS_ACROSS * 2 + n / 2 * THREADS_ACROSS * 2 + n % 2;
    }

    template <class A, class B>
    __device__ __forceinline__ void multiply(const A& a, const B& b) {
#pragma unroll 4
        for (int depth = 0; depth < STEP; depth++) {
            float left[DOWN], right[ACROSS];
#pragma unroll
            for (int m = 0; m < DOWN; m++) left[m] = a.values[depth * A::ROW + row(m)];
#pragma unroll
            for (int n = 0; n < ACROSS; n++) right[n] = b.values[depth * B::ROW + column(n)];
#pragma unroll
            for (int m = 0; m < DOWN; m++)
#pragma unroll
                for (int n = 0; n < ACROSS; n++) sums[m][n] = fmaf(left[m], right[n], sums[m][n]);
        }
    }

    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) {
#pragma unroll
        for (int m = 0; m < DOWN; m++)
#pragma unroll
            for (int n = 0; n < ACROSS; n += 2) visit(row(m), column(n), sums[m][n], sums[m][n + 1]);
    }
};

// Writes the sums of a tile that begins at `rows.begin` and `columns.begin`, or adds them to what is there. Each number
// is rounded by itself, as on the CPU: first the product with the scale, then the sum with what was there.
template <class Kind>
__device__ __forceinline__ void finish(Kind& kind, const Product& p, float* c, Range rows, Range columns) {
    // Then a pair of neighbours is there or it is not.
    const bool is_in_pairs = begins_at(c, 2 * sizeof(float)) && p.c_stride % 2 == 0 && p.columns % 2 == 0;
    const auto at = [&](int row, int column) {
        return c + (rows.begin + row) * static_cast<size_t>(p.c_stride) + (columns.begin + column);
    };
    const auto is_there = [&](int row, int column) {
        return rows.begin + row < rows.end && columns.begin + column < columns.end;
    };
    kind.each([&](int, int, float& left, float& right) {
        left = __fmul_rn(left, p.scale);
        right = __fmul_rn(right, p.scale);
    });
    // All are read before the first is written, so that they are on their way together.
    if (p.is_added && is_in_pairs) {
        kind.each([&](int row, int column, float& left, float& right) {
            if (!is_there(row, column)) return;
            const float2 before = *reinterpret_cast<const float2*>(at(row, column));
            left = __fadd_rn(before.x, left);
            right = __fadd_rn(before.y, right);
        });
    } else if (p.is_added) {
        kind.each([&](int row, int column, float& left, float& right) {
            if (is_there(row, column)) left = __fadd_rn(at(row, column)[0], left);
            if (is_there(row, column + 1)) right = __fadd_rn(at(row, column)[1], right);
        });
    }
    if (is_in_pairs) {
        kind.each([&](int row, int column, float& left, float& right) {
            if (is_there(row, column)) *reinterpret_cast<float2*>(at(row, column)) = make_float2(left, right);
        });
    } else {
        kind.each([&](int row, int column, float& left, float& right) {
            if (is_there(row, column)) at(row, column)[0] = left;
            if (is_there(row, column + 1)) at(row, column)[1] = right;
        });
    }
}

// What a block has in shared memory.
template <class Kind, bool A_ALONG, bool B_ALONG>
struct Stages {
    typename Kind::template Stage<A_ALONG> a[STAGES];
    typename Kind::template Stage<B_ALONG> b[STAGES];
};

// OF_WEIGHT: the sum runs over rows or slots, which else are the result's rows.
template <bool OF_WEIGHT, class Kind, bool A_ALONG, bool B_ALONG>
__device__ __forceinline__ void multiply(const Product& p, Stages<Kind, A_ALONG, B_ALONG>& shared) {
    const int expert = blockIdx.z;
    const Range all = {0, OF_WEIGHT ? p.depth : p.rows};
    const Range slots = p.bounds ? Range{p.bounds[expert], p.bounds[expert + 1]} : all;
    const Range rows = OF_WEIGHT ? Range{0, p.rows} : slots;
    const Range depth = OF_WEIGHT ? slots : Range{0, p.depth};
    if (p.is_added && depth.begin >= depth.end) return;
    const Range columns = {static_cast<int>(blockIdx.x) * TILE, p.columns};
    const float* const b_begin = OF_WEIGHT ? p.b : p.b + expert * p.b_of_expert;
    Factor<A_ALONG> a(p.a, p.a_rows, p.a_stride, A_ALONG ? p.depth : p.rows, depth);
    Factor<B_ALONG> b(b_begin, OF_WEIGHT ? p.b_rows : nullptr, p.b_stride, B_ALONG ? p.depth : p.columns, depth);
    float* const c = OF_WEIGHT ? p.c + expert * p.c_of_expert : p.c;
    b.start(columns);

    for (int first = rows.begin + blockIdx.y * TILE; first < rows.end; first += gridDim.y * TILE) {
        a.start(Range{first, rows.end});
        Kind kind;
        kind.clear();
        float4 of_a[CARRIED], of_b[CARRIED];
        a.fetch(of_a, depth.begin);
        b.fetch(of_b, depth.begin);
        shared.a[0].put(of_a);
        shared.b[0].put(of_b);
        __syncthreads();
        for (int step = depth.begin, stage = 0; step < depth.end; step += STEP, stage = 1 - stage) {
            const bool has_next = step + STEP < depth.end;
            if (has_next) {
                a.fetch(of_a, step + STEP);
                b.fetch(of_b, step + STEP);
            }
            kind.multiply(shared.a[stage], shared.b[stage]);
            if (has_next) {
                shared.a[1 - stage].put(of_a);
                shared.b[1 - stage].put(of_b);
            }
            // The next stage is there, and nobody reads this one any more.
            __syncthreads();
        }
        finish(kind, p, c, Range{first, rows.end}, columns);
    }
}

}  // namespace train_gemm

#define TRAIN_PRODUCT(NAME, OF_WEIGHT, ...)                                               \
    extern "C" __global__ void __launch_bounds__(train_gemm::THREADS, train_gemm::BLOCKS) \
        NAME(const train_gemm::Product product) {                                         \
        using Stages = train_gemm::Stages<train_gemm::__VA_ARGS__>;                       \
        __shared__ __align__(16) unsigned char shared[sizeof(Stages)];                    \
        train_gemm::multiply<OF_WEIGHT>(product, *reinterpret_cast<Stages*>(shared));     \
    }
TRAIN_PRODUCT(train_linear_bf16, false, Bf16, true, true)
TRAIN_PRODUCT(train_input_bf16, false, Bf16, true, false)
TRAIN_PRODUCT(train_weight_bf16, true, Bf16, false, false)
TRAIN_PRODUCT(train_linear_f32, false, F32, true, true)
TRAIN_PRODUCT(train_input_f32, false, F32, true, false)
TRAIN_PRODUCT(train_weight_f32, true, F32, false, false)
#undef TRAIN_PRODUCT
