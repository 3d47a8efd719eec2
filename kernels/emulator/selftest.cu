// Kernels that prove the emulator; `selftest.cpp` launches them. They are CUDA as well, so that nvcc can check the
// inline PTX of `primitives.cuh`:
//
//     nvcc -std=c++17 -arch=sm_80 -cubin -I kernels kernels/emulator/selftest.cu
#include "primitives.cuh"

constexpr int block_threads = 256;

// sums[block] = Σ values of the block, by a tree in shared memory.
extern "C" __global__ void reduce_block(const float* values, float* sums) {
    __shared__ float partial[block_threads];
    const int thread = threadIdx.x;
    partial[thread] = values[blockIdx.x * block_threads + thread];
    __syncthreads();
    for (int half = block_threads / 2; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    if (thread == 0) sums[blockIdx.x] = partial[0];
}

// As above, without the barrier after the stores.
extern "C" __global__ void reduce_without_barrier(const float* values, float* sums) {
    DYNAMIC_SHARED(bytes);
    float* partial = reinterpret_cast<float*>(bytes);
    const int thread = threadIdx.x;
    partial[thread] = values[blockIdx.x * block_threads + thread];
    if (thread < 32) {
        float sum = 0;
        for (int i = thread; i < block_threads; i += 32) sum += partial[i];
        for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
        if (thread == 0) sums[blockIdx.x] = sum;
    }
}

// Twelve words a lane, one for each kind of collective.
extern "C" __global__ void collectives(int* out) {
    const int lane = threadIdx.x;
    int* own = out + lane * 12;
    own[0] = __shfl_sync(~0u, lane * 10, lane + 5);
    own[1] = __shfl_up_sync(~0u, lane, 3);
    own[2] = __shfl_down_sync(~0u, lane, 3);
    own[3] = __shfl_xor_sync(~0u, lane, 9);
    own[4] = __shfl_down_sync(~0u, lane, 3, 8);
    own[5] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
    own[6] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 32) + 4 * __all_sync(~0u, lane < 31);
    own[7] = lane < 16 ? __shfl_xor_sync(0x0000FFFFu, lane, 1) : __shfl_xor_sync(0xFFFF0000u, lane, 2);
    const long long wide = __shfl_xor_sync(~0u, (1ll << 40) + lane, 1);
    own[8] = static_cast<int>(wide >> 40) + static_cast<int>(wide & 0xFF);
    own[9] = __syncthreads_count(lane < 11);
    own[10] = __syncthreads_or(lane == 11) + 2 * __syncthreads_and(lane < 32);
    if (lane >= 24) return;
    own[11] = __syncthreads_count(1);
}

// c [16, 8] = a [16, 16] · b [16, 8], all by rows, through ldmatrix.
extern "C" __global__ void product_bf16(const uint16_t* a, const uint16_t* b, float* c) {
    DYNAMIC_SHARED(bytes);
    uint16_t* rows_a = reinterpret_cast<uint16_t*>(bytes);
    uint16_t* rows_b = rows_a + 16 * 16;
    const int lane = threadIdx.x;
    for (int i = lane; i < 16 * 16; i += 32) rows_a[i] = a[i];
    for (int i = lane; i < 16 * 8; i += 32) rows_b[i] = b[i];
    __syncwarp();
    uint32_t fragment_a[4], fragment_b[2];
    ldmatrix_x4(fragment_a, rows_a + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_trans(fragment_b, rows_b + lane % 16 * 8);
    float sums[4] = {};
    mma_bf16(sums, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// c [16, 8] += a [16, 32] · b [8, 32]ᵀ, all by rows, through ldmatrix.
extern "C" __global__ void product_s8(const int8_t* a, const int8_t* b, int* c) {
    DYNAMIC_SHARED(bytes);
    int8_t* rows_a = reinterpret_cast<int8_t*>(bytes);
    int8_t* rows_b = rows_a + 16 * 32;
    const int lane = threadIdx.x;
    for (int i = lane; i < 16 * 32; i += 32) rows_a[i] = a[i];
    for (int i = lane; i < 8 * 32; i += 32) rows_b[i] = b[i];
    __syncwarp();
    uint32_t fragment_a[4], fragment_b[2];
    ldmatrix_x4(fragment_a, rows_a + lane % 16 * 32 + lane / 16 * 16);
    ldmatrix_x2(fragment_b, rows_b + lane % 8 * 32 + lane / 8 % 2 * 16);
    int sums[4];
    for (int i = 0; i < 4; i++) sums[i] = c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
    mma_s8(sums, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// out[8·m + i, :] = four 8 × 8 matrices, each transposed.
extern "C" __global__ void transpose(const uint16_t* matrices, uint16_t* out) {
    DYNAMIC_SHARED(bytes);
    uint16_t* rows = reinterpret_cast<uint16_t*>(bytes);
    const int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) rows[lane * 8 + i] = matrices[lane * 8 + i];
    __syncwarp();
    uint32_t fragment[4];
    ldmatrix_x4_trans(fragment, rows + lane * 8);
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t* row = out + (matrix * 8 + lane / 4) * 8 + lane % 4 * 2;
        row[0] = static_cast<uint16_t>(fragment[matrix]);
        row[1] = static_cast<uint16_t>(fragment[matrix] >> 16);
    }
}

// sums[thread] = Σ over the tiles of what the next thread copied; a double buffer of 16 bytes a thread.
template <int pending>
__device__ __forceinline__ void sum_tiles(const uint4* tiles, int count, int rows, unsigned* sums,
                                          unsigned char* shared) {
    uint4* buffers = reinterpret_cast<uint4*>(shared);
    const int thread = threadIdx.x, threads = blockDim.x;
    unsigned sum = 0;
    copy_async16(buffers + thread, tiles + thread, thread < rows);
    copy_async_commit();
    for (int tile = 0; tile < count; tile++) {
        if (tile + 1 < count) {
            const int row = (tile + 1) * threads + thread;
            copy_async16(buffers + (tile + 1) % 2 * threads + thread, tiles + row, row < rows);
        }
        copy_async_commit();
        copy_async_wait<pending>();
        __syncthreads();
        const uint4 read = buffers[tile % 2 * threads + (thread + 1) % threads];
        sum += read.x + read.y + read.z + read.w;
        __syncthreads();
    }
    sums[thread] = sum;
}

extern "C" __global__ void copies(const uint4* tiles, int count, int rows, unsigned* sums) {
    DYNAMIC_SHARED(bytes);
    sum_tiles<1>(tiles, count, rows, sums, bytes);
}

extern "C" __global__ void copies_without_wait(const uint4* tiles, int count, int rows, unsigned* sums) {
    DYNAMIC_SHARED(bytes);
    sum_tiles<2>(tiles, count, rows, sums, bytes);
}

extern "C" __global__ void divergent_barrier() {
    if (threadIdx.x < 40) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

extern "C" __global__ void half_a_warp() {
    if (threadIdx.x < 16) __syncwarp();
    __syncthreads();
}

extern "C" __global__ void product_of_few_lanes(float* out) {
    uint32_t a[4] = {}, b[2] = {};
    float sums[4] = {};
    if (threadIdx.x == 3) return;
    mma_bf16(sums, a, b);
    out[threadIdx.x] = sums[0];
}

extern "C" __global__ void odd_address(unsigned* out) {
    DYNAMIC_SHARED(bytes);
    uint32_t fragment[2];
    ldmatrix_x2(fragment, bytes + threadIdx.x * 16 + (threadIdx.x == 5 ? 2 : 0));
    out[threadIdx.x] = fragment[0] + fragment[1];
}

// Writes outside the shared memory of the launch, which is smaller than what it takes.
extern "C" __global__ void past_shared(float* out) {
    DYNAMIC_SHARED(bytes);
    reinterpret_cast<float*>(bytes)[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = reinterpret_cast<float*>(bytes)[threadIdx.x ^ 1];
}

extern "C" __global__ void store(int* out, int index) { out[index] = 0; }

// Each block reads what nobody has written, then writes it for the next one to find.
extern "C" __global__ void read_unwritten(float* out) {
    DYNAMIC_SHARED(bytes);
    __shared__ float fixed[32];
    float* dynamic = reinterpret_cast<float*>(bytes);
    out[blockIdx.x * 32 + threadIdx.x] = dynamic[threadIdx.x] + fixed[threadIdx.x];
    __syncthreads();
    dynamic[threadIdx.x] = fixed[threadIdx.x] = 1;
}

// Every thread counts itself, and the last one to come writes the total: a reduction over blocks.
extern "C" __global__ void count_all(unsigned* count, float* sum, unsigned* last_total) {
    atomicAdd(sum, 0.5f);
    __threadfence();
    const unsigned before = atomicAdd(count, 1u);
    if (before == gridDim.x * blockDim.x - 1) *last_total = before + 1;
    atomicMax(last_total + 1, blockIdx.x);
    atomicMin(last_total + 2, blockIdx.x);
}

extern "C" __global__ void convert(const float* values, uint16_t* rounded, uint32_t* packed, float* power) {
    const int thread = threadIdx.x;
    rounded[thread] = to_bf16(values[thread]);
    packed[thread] = pack_bf16(values[thread], values[(thread + 1) % blockDim.x]);
    power[thread] = exp2_fast(low_bf16(packed[thread])) + high_bf16(packed[thread]) + from_bf16(rounded[thread]);
}

// out[thread of the grid] = its coordinates, one decimal digit each.
extern "C" __global__ void coordinates(int* out) {
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = blockIdx.x * 100000 + blockIdx.y * 10000 +
                                                                 blockIdx.z * 1000 + threadIdx.x * 100 +
                                                                 threadIdx.y * 10 + threadIdx.z;
}

// A template with an array of its own: each instance has another one.
template <int count>
__device__ float sum_through_shared(float value) {
    __shared__ __align__(16) float values[count];
    if (threadIdx.x < count) values[threadIdx.x] = value;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < count; i++) sum += values[i];
    return sum;
}

extern "C" __global__ void sums_through_shared(float* out) {
    out[threadIdx.x] = sum_through_shared<8>(1) + sum_through_shared<32>(2);
}

// Nothing but collectives: for the time they take.
extern "C" __global__ void many_collectives(int rounds, int* out) {
    int sum = threadIdx.x;
    for (int round = 0; round < rounds; round++) {
        sum += __shfl_xor_sync(~0u, sum, 1 + round % 31);
        if (round % 2 == 0) __syncthreads();
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void many_products(int rounds, float* out) {
    uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};
    float sums[4] = {};
    for (int round = 0; round < rounds; round++) mma_bf16(sums, a, b);
    out[blockIdx.x * blockDim.x + threadIdx.x] = sums[0];
}
