// Rows in and out of the residual stream, all row-major.
//
//   embed_*    x[row] = table[tokens[row]]      table bf16 or f32 [vocabulary, hidden], x f32 [rows, hidden]
//   keep_rows  out[i] = in[wanted[i]]           f32 [count, width]
//
// Grid: a block for each of the most rows, those beyond the count return at once; block: any, 256 is usual. Any width;
// tokens and wanted rows must exist, `out` is not `in`. Plain loads: what is moved is little beside a layer's weights.
// CPU twins: `embed` in src/engine/model/transformer.rs, `keep_wanted` in src/engine/model/cpu.rs.
#include "primitives.cuh"

namespace embed {

__device__ __forceinline__ float number(float value) { return value; }
__device__ __forceinline__ float number(uint16_t value) { return from_bf16(value); }

// Copies row `from` of one matrix to row `to` of another of the same width.
template <class Number>
__device__ __forceinline__ void copy_row(float* out, size_t to, const Number* in, size_t from, int width) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[to * width + i] = number(in[from * width + i]);
}

}  // namespace embed

extern "C" __global__ void embed_bf16(
    float* x, const uint16_t* table, const uint32_t* tokens, const int* rows, int hidden) {
    const int row = blockIdx.x;
    if (row >= *rows) return;
    embed::copy_row(x, row, table, tokens[row], hidden);
}

extern "C" __global__ void embed_f32(
    float* x, const float* table, const uint32_t* tokens, const int* rows, int hidden) {
    const int row = blockIdx.x;
    if (row >= *rows) return;
    embed::copy_row(x, row, table, tokens[row], hidden);
}

extern "C" __global__ void keep_rows(
    float* out, const float* in, const uint32_t* wanted, const int* count, int width) {
    const int row = blockIdx.x;
    if (row >= *count) return;
    embed::copy_row(out, row, in, wanted[row], width);
}
