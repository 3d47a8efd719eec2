// The norm and the router with sums in f64, of models kept in f32: for comparing with references only.
//
//   norm_f32            v = x / sqrt(mean(x²) + eps) · weight; y f32 [rows, stride] and, when it is not null, normed
//                       f32 [rows, width] = v; block per row, of 256 threads
//   route_scores_exact  as route_scores of route.cu; block per row, of 256 threads, a thread for an expert
//
// Routing chooses between experts that may differ by less than the error of a sum in f32; whoever wants the reference's
// choice must not lose it to the order of a sum. CPU twin: src/engine/ops/exact.rs.
#include "primitives.cuh"

extern "C" __global__ void __launch_bounds__(256) norm_f32(
    float* y, float* normed, const float* x, const float* weight, const int* rows, int width, int stride, float eps) {
    const size_t row = blockIdx.x;
    if (static_cast<int>(row) >= *rows) return;
    const float* of_row = x + row * width;
    __shared__ double inverse;
    if (threadIdx.x == 0) {
        double squares = 0.0;
        for (int i = 0; i < width; i++) squares += static_cast<double>(of_row[i]) * static_cast<double>(of_row[i]);
        inverse = 1.0 / sqrt(squares / width + static_cast<double>(eps));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < stride; i += blockDim.x) {
        const float v = i < width ? static_cast<float>(of_row[i] * inverse * weight[i]) : 0.0f;
        y[row * stride + i] = v;
        if (normed != nullptr && i < width) normed[row * width + i] = v;
    }
}

extern "C" __global__ void __launch_bounds__(256) route_scores_exact(
    float* scores, const float* normed, const float* router, const int* rows, int experts, int hidden,
    int is_softmax) {
    const size_t row = blockIdx.x;
    if (static_cast<int>(row) >= *rows) return;
    float* of_row = scores + row * experts;
    for (int expert = threadIdx.x; expert < experts; expert += blockDim.x) {
        double sum = 0.0;
        for (int i = 0; i < hidden; i++) {
            sum += static_cast<double>(normed[row * hidden + i]) *
                   static_cast<double>(router[static_cast<size_t>(expert) * hidden + i]);
        }
        const float score = static_cast<float>(sum);
        of_row[expert] = is_softmax ? score : 1.0f / (1.0f + static_cast<float>(exp(-static_cast<double>(score))));
    }
    __syncthreads();
    if (!is_softmax || threadIdx.x != 0) return;
    float largest = of_row[0];
    for (int expert = 1; expert < experts; expert++) largest = fmaxf(largest, of_row[expert]);
    double sum = 0.0;
    for (int expert = 0; expert < experts; expert++) sum += exp(static_cast<double>(of_row[expert] - largest));
    for (int expert = 0; expert < experts; expert++) {
        of_row[expert] = static_cast<float>(exp(static_cast<double>(of_row[expert] - largest)) / sum);
    }
}
