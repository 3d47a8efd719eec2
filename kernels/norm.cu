// Rows as the linear layers take them, with the root-mean-square norm before it or without.
//
//   norm_*  v = x / sqrt(mean(x²) + eps) · weight      rows_*  v = x
//   f32     y f32 [rows, stride] = v          (rows_f32; the norm of f32 is in exact.cu)
//   bf16    y bf16 [rows, stride] = v
//   q8      scales f32 [rows] = largest |v| / 127, y s8 [rows, stride] = round(v · 127 / largest), ties to even
//   q4      the same with a scale for each 32 inputs: scales f32 [rows, stride / 32]
//
// x f32 [rows, width], weight f32 [width]; y is padded with zeros from width to stride, a multiple of 32. `normed`,
// when it is not null, receives v itself, f32 [rows, width] (a router reads it). All pointers are multiples of 16 bytes.
//
// Grid: a block for each of the most rows, those beyond `*rows` return at once. Block: 256 threads, and for rows_* 1024
// when stride is above 8192; so stride is at most 8192 for norm_*, 32768 for rows_*. A thread holds fours of neighbours
// in registers, so x is read once and eight lanes hold a group of 32. Sums depend on width and threads alone.
// Source: arXiv 1910.07467; CPU twins: src/engine/ops/norm.rs, src/engine/ops/quantized/rows.rs.
#include "warps.cuh"

namespace rms {

// Of norm_*, which needs registers for a row and its weights; and the most of rows_*.
constexpr int NORM_THREADS = 256;
constexpr int MOST_THREADS = 1024;
constexpr int MOST_WARPS = MOST_THREADS / LANES;
// Neighbours that a thread reads and writes together: 16 bytes of f32.
constexpr int FOUR = 4;
// Fours of a thread: 32 registers, so that 1024 threads have room.
constexpr int STEPS = 8;
// Inputs that share a scale in the q4 form, and the lanes that hold them.
constexpr int GROUP = 32;
constexpr int GROUP_LANES = GROUP / FOUR;
// Of the signed bytes; −128 is not used.
constexpr float LARGEST_BYTE = 127.0f;

typedef float Values[STEPS][FOUR];

// Where the fours of a step begin; the block's steps are one behind the other.
__device__ __forceinline__ int step_start(int step) { return step * FOUR * static_cast<int>(blockDim.x); }

__device__ __forceinline__ int place(int step) { return step_start(step) + FOUR * static_cast<int>(threadIdx.x); }

// Returns the sum over the block to every thread, in an order that depends only on the block's size.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float of_warps[MOST_WARPS];
    for (int apart = LANES / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(ALL_LANES, value, apart);
    if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / LANES; ++warp) sum += of_warps[warp];
    return sum;
}

// Returns the largest over neighbouring lanes, a power of two of them, to each of them.
__device__ __forceinline__ unsigned lanes_max(unsigned value, int lanes) {
    for (int apart = lanes / 2; apart > 0; apart /= 2) value = max(value, __shfl_xor_sync(ALL_LANES, value, apart));
    return value;
}

__device__ __forceinline__ unsigned block_max(unsigned value) {
    __shared__ unsigned of_warps[MOST_WARPS];
    value = lanes_max(value, LANES);
    if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = value;
    __syncthreads();
    unsigned largest = 0;
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / LANES; ++warp) largest = max(largest, of_warps[warp]);
    return largest;
}

// Reads a four; what is behind the width is zero. `is_whole`: the width is a multiple of four.
template <bool is_whole>
__device__ __forceinline__ void load_four(float (&v)[FOUR], const float* row, int at, int width) {
    if (is_whole) {
        const float4 four =
            at < width ? *reinterpret_cast<const float4*>(row + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
        for (int i = 0; i < FOUR; ++i) v[i] = at + i < width ? row[at + i] : 0.0f;
    }
}

// Writes a four, but nothing behind the width.
template <bool is_whole>
__device__ __forceinline__ void store_four(float* row, const float (&v)[FOUR], int at, int width) {
    if (is_whole) {
        if (at < width) *reinterpret_cast<float4*>(row + at) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
        for (int i = 0; i < FOUR; ++i) {
            if (at + i < width) row[at + i] = v[i];
        }
    }
}

// Magnitudes compare like their bits, and those have a largest in any order, not-a-numbers included.
__device__ __forceinline__ unsigned largest_of(const float (&v)[FOUR]) {
    unsigned largest = 0;
    for (int i = 0; i < FOUR; ++i) largest = max(largest, __float_as_uint(fabsf(v[i])));
    return largest;
}

__device__ __forceinline__ float inverse_scale(float largest) {
    return largest > 0.0f ? LARGEST_BYTE / largest : 0.0f;
}

__device__ __forceinline__ void store_bytes(int8_t* y, const float (&v)[FOUR], float inverse) {
    uint32_t word = 0;
    for (int i = 0; i < FOUR; ++i) {
        const uint32_t byte = static_cast<uint32_t>(__float2int_rn(v[i] * inverse)) & 0xFFu;
        word |= byte << (8 * i);
    }
    *reinterpret_cast<uint32_t*>(y) = word;
}

struct F32 {
    float* y;

    __device__ __forceinline__ void write(const Values& v, size_t row, int stride) const {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) store_four<true>(y + row * stride, v[step], place(step), stride);
    }
};

struct Bf16 {
    uint16_t* y;

    __device__ __forceinline__ void write(const Values& v, size_t row, int stride) const {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (place(step) >= stride) break;
            *reinterpret_cast<uint2*>(y + row * stride + place(step)) =
                make_uint2(pack_bf16(v[step][0], v[step][1]), pack_bf16(v[step][2], v[step][3]));
        }
    }
};

struct Q8 {
    int8_t* y;
    float* scales;

    __device__ __forceinline__ void write(const Values& v, size_t row, int stride) const {
        unsigned bits = 0;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) bits = max(bits, largest_of(v[step]));
        const float largest = __uint_as_float(block_max(bits));
        const float inverse = inverse_scale(largest);
        if (threadIdx.x == 0) scales[row] = largest / LARGEST_BYTE;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (place(step) >= stride) break;
            store_bytes(y + row * stride + place(step), v[step], inverse);
        }
    }
};

struct Q4 {
    int8_t* y;
    float* scales;

    __device__ __forceinline__ void write(const Values& v, size_t row, int stride) const {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            // The whole block leaves together: the lanes of a group need one another.
            if (step_start(step) >= stride) break;
            const float largest = __uint_as_float(lanes_max(largest_of(v[step]), GROUP_LANES));
            const int at = place(step);
            if (at < stride) {
                store_bytes(y + row * stride + at, v[step], inverse_scale(largest));
                if (at % GROUP == 0) scales[row * (stride / GROUP) + at / GROUP] = largest / LARGEST_BYTE;
            }
        }
    }
};

// Reads this thread's fours of a row.
template <bool is_whole>
__device__ __forceinline__ void load(Values& v, const float* x, int width) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) load_four<is_whole>(v[step], x, place(step), width);
}

template <bool is_whole>
__device__ __forceinline__ void apply(
    Values& v, float* normed, const float* x, const float* weight, int width, float eps) {
    load<is_whole>(v, x, width);
    float squares = 0.0f;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        for (int i = 0; i < FOUR; ++i) squares = fmaf(v[step][i], v[step][i], squares);
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(width) + eps);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        float w[FOUR];
        load_four<is_whole>(w, weight, place(step), width);
        for (int i = 0; i < FOUR; ++i) v[step][i] = v[step][i] * inverse * w[i];
    }
    if (normed == nullptr) return;
    // Behind all reads of the weight, which could not pass a store that may be to the same place.
#pragma unroll
    for (int step = 0; step < STEPS; ++step) store_four<is_whole>(normed, v[step], place(step), width);
}

template <class Form>
__device__ __forceinline__ void write_rows(Form form, const float* x, const int* rows, int width, int stride) {
    const size_t row = blockIdx.x;
    if (static_cast<int>(row) >= *rows) return;
    Values v;
    if (width % FOUR == 0) {
        load<true>(v, x + row * width, width);
    } else {
        load<false>(v, x + row * width, width);
    }
    form.write(v, row, stride);
}

template <class Form>
__device__ __forceinline__ void write_normed(
    Form form, float* normed, const float* x, const float* weight, const int* rows, int width, int stride, float eps) {
    const size_t row = blockIdx.x;
    if (static_cast<int>(row) >= *rows) return;
    if (normed != nullptr) normed += row * width;
    Values v;
    if (width % FOUR == 0) {
        apply<true>(v, normed, x + row * width, weight, width, eps);
    } else {
        apply<false>(v, normed, x + row * width, weight, width, eps);
    }
    form.write(v, row, stride);
}

}  // namespace rms

extern "C" __global__ void __launch_bounds__(rms::NORM_THREADS) norm_bf16(
    uint16_t* y, float* normed, const float* x, const float* weight, const int* rows, int width, int stride,
    float eps) {
    rms::write_normed(rms::Bf16{y}, normed, x, weight, rows, width, stride, eps);
}

extern "C" __global__ void __launch_bounds__(rms::NORM_THREADS) norm_q8(
    int8_t* y, float* scales, float* normed, const float* x, const float* weight, const int* rows, int width,
    int stride, float eps) {
    rms::write_normed(rms::Q8{y, scales}, normed, x, weight, rows, width, stride, eps);
}

extern "C" __global__ void __launch_bounds__(rms::NORM_THREADS) norm_q4(
    int8_t* y, float* scales, float* normed, const float* x, const float* weight, const int* rows, int width,
    int stride, float eps) {
    rms::write_normed(rms::Q4{y, scales}, normed, x, weight, rows, width, stride, eps);
}

extern "C" __global__ void __launch_bounds__(rms::MOST_THREADS) rows_f32(
    float* y, const float* x, const int* rows, int width, int stride) {
    rms::write_rows(rms::F32{y}, x, rows, width, stride);
}

extern "C" __global__ void __launch_bounds__(rms::MOST_THREADS) rows_bf16(
    uint16_t* y, const float* x, const int* rows, int width, int stride) {
    rms::write_rows(rms::Bf16{y}, x, rows, width, stride);
}

extern "C" __global__ void __launch_bounds__(rms::MOST_THREADS) rows_q8(
    int8_t* y, float* scales, const float* x, const int* rows, int width, int stride) {
    rms::write_rows(rms::Q8{y, scales}, x, rows, width, stride);
}

extern "C" __global__ void __launch_bounds__(rms::MOST_THREADS) rows_q4(
    int8_t* y, float* scales, const float* x, const int* rows, int width, int stride) {
    rms::write_rows(rms::Q4{y, scales}, x, rows, width, stride);
}
