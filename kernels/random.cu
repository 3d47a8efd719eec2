// Weights made up of nothing, for measuring shapes whose checkpoints are not at hand.
//
//   random_bytes  words[i] = 32 bits of a counter put through SplitMix64: eight or four bits a weight
//   random_bf16   words[i] = two bf16 numbers, even within (−size, size)
//   fill_f32      numbers[i] = value          fill_bf16  words[i] = the value twice
//
// Grid: any; block: 256; every thread takes each grid's worth of words. The same for a seed, whatever the grid.
// Source: SplitMix64 as in src/engine/mixing.rs.
#include "primitives.cuh"

namespace random_weights {

__device__ __forceinline__ uint32_t bits(unsigned long long seed, unsigned long long i) {
    unsigned long long z = seed + (i + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return static_cast<uint32_t>(z >> 32);
}

__device__ __forceinline__ unsigned long long first() {
    return static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ unsigned long long all() { return static_cast<unsigned long long>(gridDim.x) * blockDim.x; }

// Of 16 bits, a number even within (−size, size).
__device__ __forceinline__ float even(uint32_t half, float size) {
    return (static_cast<float>(half) / 32768.0f - 1.0f) * size;
}

}  // namespace random_weights

extern "C" __global__ void random_bytes(uint32_t* words, unsigned long long count, unsigned long long seed) {
    using namespace random_weights;
    for (unsigned long long i = first(); i < count; i += all()) words[i] = bits(seed, i);
}

extern "C" __global__ void random_bf16(
    uint32_t* words, unsigned long long count, unsigned long long seed, float size) {
    using namespace random_weights;
    for (unsigned long long i = first(); i < count; i += all()) {
        const uint32_t two = bits(seed, i);
        words[i] = pack_bf16(even(two & 0xffff, size), even(two >> 16, size));
    }
}

extern "C" __global__ void fill_f32(float* numbers, unsigned long long count, float value) {
    using namespace random_weights;
    for (unsigned long long i = first(); i < count; i += all()) numbers[i] = value;
}

extern "C" __global__ void fill_bf16(uint32_t* words, unsigned long long count, float value) {
    using namespace random_weights;
    for (unsigned long long i = first(); i < count; i += all()) words[i] = pack_bf16(value, value);
}
