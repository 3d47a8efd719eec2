// The part of CUDA C++ that the kernels use, under CUDA's names, for a C++ compiler and the CPU. Tests only.
//
// Include it through `primitives.cuh` with EMULATED defined. What it deliberately lacks: a kernel may not spin on memory
// that another thread or block will write (nobody else runs meanwhile), and there are no textures, clusters or streams.
#pragma once

#include "warp.hpp"

#include <climits>
#include <cstdint>
#include <math.h>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// `__shared__` comes from static_shared.hpp. A block runs on one OS thread, so thread-local is block-local.
#define DYNAMIC_SHARED(name) unsigned char* const name = emulator::running->block->shared

#define threadIdx (emulator::running->index)
#define blockIdx (emulator::running->block->index)
#define blockDim (emulator::running->block->size)
#define gridDim (emulator::running->block->grid)
constexpr int warpSize = 32;

// Vector types.

#define EMULATOR_VECTOR2(type, element)                         \
    struct alignas(2 * sizeof(element)) type {                  \
        element x, y;                                           \
    };                                                          \
    inline type make_##type(element x, element y) { return {x, y}; }
#define EMULATOR_VECTOR4(type, element)                                                          \
    struct alignas(4 * sizeof(element) < 16 ? 4 * sizeof(element) : 16) type {                   \
        element x, y, z, w;                                                                      \
    };                                                                                           \
    inline type make_##type(element x, element y, element z, element w) { return {x, y, z, w}; }
EMULATOR_VECTOR2(char2, signed char)
EMULATOR_VECTOR2(uchar2, unsigned char)
EMULATOR_VECTOR2(short2, short)
EMULATOR_VECTOR2(ushort2, unsigned short)
EMULATOR_VECTOR2(int2, int)
EMULATOR_VECTOR2(uint2, unsigned)
EMULATOR_VECTOR2(float2, float)
EMULATOR_VECTOR2(longlong2, long long)
EMULATOR_VECTOR2(ulonglong2, unsigned long long)
EMULATOR_VECTOR4(char4, signed char)
EMULATOR_VECTOR4(uchar4, unsigned char)
EMULATOR_VECTOR4(short4, short)
EMULATOR_VECTOR4(ushort4, unsigned short)
EMULATOR_VECTOR4(int4, int)
EMULATOR_VECTOR4(uint4, unsigned)
EMULATOR_VECTOR4(float4, float)
#undef EMULATOR_VECTOR2
#undef EMULATOR_VECTOR4

// Barriers and warp collectives. The default arguments record the caller's line for reports.

#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_CALLER) { emulator::barrier({"__syncthreads", file, line}, false); }

inline int __syncthreads_count(int predicate, EMULATOR_CALLER) {
    emulator::barrier({"__syncthreads_count", file, line}, predicate != 0);
    return static_cast<int>(emulator::running->block->released_truths);
}

inline int __syncthreads_or(int predicate, EMULATOR_CALLER) {
    emulator::barrier({"__syncthreads_or", file, line}, predicate != 0);
    return emulator::running->block->released_truths != 0;
}

inline int __syncthreads_and(int predicate, EMULATOR_CALLER) {
    emulator::barrier({"__syncthreads_and", file, line}, predicate != 0);
    const emulator::Block& block = *emulator::running->block;
    return block.released_truths == block.released_arrived;
}

inline void __syncwarp(unsigned mask = emulator::all_lanes, EMULATOR_CALLER) {
    emulator::meet({"__syncwarp", file, line}, mask, emulator::only_meet, nullptr);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
    emulator::Vote vote{predicate != 0, 0, 0};
    emulator::meet({"__ballot_sync", file, line}, mask, emulator::vote, &vote);
    return vote.ballot;
}

inline int __any_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
    emulator::Vote vote{predicate != 0, 0, 0};
    emulator::meet({"__any_sync", file, line}, mask, emulator::vote, &vote);
    return vote.ballot != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
    emulator::Vote vote{predicate != 0, 0, 0};
    emulator::meet({"__all_sync", file, line}, mask, emulator::vote, &vote);
    return vote.ballot == vote.participants;
}

template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source, int width = 32, EMULATOR_CALLER) {
    return emulator::shuffled<emulator::Shuffle::indexed>({"__shfl_sync", file, line}, mask, value,
                                                          static_cast<unsigned>(source), width);
}

template <class Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned delta, int width = 32, EMULATOR_CALLER) {
    return emulator::shuffled<emulator::Shuffle::up>({"__shfl_up_sync", file, line}, mask, value, delta, width);
}

template <class Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned delta, int width = 32, EMULATOR_CALLER) {
    return emulator::shuffled<emulator::Shuffle::down>({"__shfl_down_sync", file, line}, mask, value, delta, width);
}

template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int lanes, int width = 32, EMULATOR_CALLER) {
    return emulator::shuffled<emulator::Shuffle::exclusive_or>({"__shfl_xor_sync", file, line}, mask, value,
                                                               static_cast<unsigned>(lanes), width);
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMULATOR_CALLER) {
    emulator::ProductOperands<float> operands{d, a, b};
    emulator::meet({"mma_bf16", file, line}, emulator::all_lanes, emulator::multiply_bf16, &operands);
}

inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMULATOR_CALLER) {
    emulator::ProductOperands<int> operands{d, a, b};
    emulator::meet({"mma_s8", file, line}, emulator::all_lanes, emulator::multiply_s8, &operands);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, EMULATOR_CALLER) {
    emulator::MatrixRows operands{shared_row, r};
    emulator::meet({"ldmatrix_x4", file, line}, emulator::all_lanes, emulator::load_matrices<4, false>, &operands);
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, EMULATOR_CALLER) {
    emulator::MatrixRows operands{shared_row, r};
    emulator::meet({"ldmatrix_x4_trans", file, line}, emulator::all_lanes, emulator::load_matrices<4, true>, &operands);
}

inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row, EMULATOR_CALLER) {
    emulator::MatrixRows operands{shared_row, r};
    emulator::meet({"ldmatrix_x2", file, line}, emulator::all_lanes, emulator::load_matrices<2, false>, &operands);
}

inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row, EMULATOR_CALLER) {
    emulator::MatrixRows operands{shared_row, r};
    emulator::meet({"ldmatrix_x2_trans", file, line}, emulator::all_lanes, emulator::load_matrices<2, true>, &operands);
}

// Asynchronous copies. Between start and wait the destination may hold anything, so it holds poison: a missing wait and
// a copy into bytes that others still read both show.

inline void copy_async16(void* shared, const void* global, bool is_there, EMULATOR_CALLER) {
    emulator::Thread& thread = *emulator::running;
    if (reinterpret_cast<uintptr_t>(shared) % 16 || (is_there && reinterpret_cast<uintptr_t>(global) % 16)) {
        emulator::fail("copy_async16 of thread (%u, %u, %u) is not 16-byte aligned, %s:%d", thread.index.x,
                       thread.index.y, thread.index.z, emulator::file_name(file), line);
    }
    if (!emulator::is_shared(*thread.block, shared)) {
        emulator::fail("copy_async16 of thread (%u, %u, %u) writes outside shared memory, %s:%d", thread.index.x,
                       thread.index.y, thread.index.z, emulator::file_name(file), line);
    }
    memset(shared, emulator::poison, 16);
    thread.copies.push_back({shared, global, is_there, thread.open_group});
}

#undef EMULATOR_CALLER

inline void copy_async_commit() { emulator::running->open_group++; }

template <int pending>
void copy_async_wait() {
    emulator::Thread& thread = *emulator::running;
    size_t done = 0;
    for (; done < thread.copies.size(); done++) {
        const emulator::Copy& copy = thread.copies[done];
        if (copy.group + pending >= thread.open_group) break;
        if (copy.is_there) {
            memcpy(copy.shared, copy.global, 16);
        } else {
            memset(copy.shared, 0, 16);
        }
    }
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<ptrdiff_t>(done));
}

// Bits.

namespace emulator {

template <class To, class From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace emulator

inline unsigned __float_as_uint(float value) { return emulator::bits_as<unsigned>(value); }
inline int __float_as_int(float value) { return emulator::bits_as<int>(value); }
inline float __uint_as_float(unsigned bits) { return emulator::bits_as<float>(bits); }
inline float __int_as_float(int bits) { return emulator::bits_as<float>(bits); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline int __clzll(long long bits) { return bits ? __builtin_clzll(static_cast<unsigned long long>(bits)) : 64; }

inline unsigned __brev(unsigned bits) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (bits >> bit & 1) << (31 - bit);
    return reversed;
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned chosen = selector >> (4 * i) & 7;
        result |= static_cast<unsigned>(bytes >> (8 * chosen) & 0xFF) << (8 * i);
    }
    return result;
}

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
    return sum;
}

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// Arithmetic. Some of these names are taken by the C library, which declares them and does not export them.

#define __expf(value) expf(value)
#define __logf(value) logf(value)
#define rsqrtf(value) (1.0f / sqrtf(value))

inline float __fdividef(float a, float b) { return a / b; }

// Rounded each by itself: never one fused operation.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

inline float exp2_fast(float value) { return exp2f(value); }

// Out of range saturates and NaN is zero, unlike the C++ conversion.
inline int __float2int_rn(float value) {
    if (isnan(value)) return 0;
    if (value >= 0x1p31f) return INT_MAX;
    if (value <= -0x1p31f) return INT_MIN;
    return static_cast<int>(nearbyintf(value));
}

inline float __int2float_rn(int value) { return static_cast<float>(value); }

// Of floating point numbers the one that is not NaN, as in CUDA.
template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using Common = std::common_type_t<A, B>;
    const Common x = static_cast<Common>(a), y = static_cast<Common>(b);
    return y < x || x != x ? y : x;
}

template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using Common = std::common_type_t<A, B>;
    const Common x = static_cast<Common>(a), y = static_cast<Common>(b);
    return x < y || x != x ? y : x;
}

// bf16, rounded to nearest even; every NaN becomes the one that the GPU writes.

inline uint16_t to_bf16(float value) {
    if (isnan(value)) return 0x7FFF;
    const uint32_t bits = __float_as_uint(value);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline float from_bf16(uint16_t value) { return __uint_as_float(uint32_t{value} << 16); }
inline uint32_t pack_bf16(float low, float high) { return to_bf16(low) | uint32_t{to_bf16(high)} << 16; }
inline float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
inline float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xFFFF0000u); }

// Memory. Blocks run on several OS threads, so the atomics are real ones.

inline uint4 load_stream(const uint4* address) { return *address; }

template <class Value>
Value __ldg(const Value* address) {
    return *address;
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

namespace emulator {

// Replaces `*address` by `change(*address)` in one step and returns what was there.
template <class Value, class Change>
Value update(Value* address, Change change) {
    Value old, changed;
    __atomic_load(address, &old, __ATOMIC_SEQ_CST);
    do {
        changed = change(old);
    } while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}

// Keeps the second argument of an atomic out of type deduction: `atomicAdd(&unsigned, 1)` is an unsigned addition.
template <class Value>
struct Same {
    using Type = Value;
};

}  // namespace emulator

template <class Value>
Value atomicAdd(Value* address, typename emulator::Same<Value>::Type value) {
    return emulator::update(address, [&](Value old) { return static_cast<Value>(old + value); });
}

template <class Value>
Value atomicMax(Value* address, typename emulator::Same<Value>::Type value) {
    static_assert(std::is_integral_v<Value>, "CUDA has it for integers only");
    return emulator::update(address, [&](Value old) { return max(old, value); });
}

template <class Value>
Value atomicMin(Value* address, typename emulator::Same<Value>::Type value) {
    static_assert(std::is_integral_v<Value>, "CUDA has it for integers only");
    return emulator::update(address, [&](Value old) { return min(old, value); });
}

template <class Value>
Value atomicExch(Value* address, typename emulator::Same<Value>::Type value) {
    return emulator::update(address, [&](Value) { return value; });
}

template <class Value>
Value atomicCAS(Value* address, typename emulator::Same<Value>::Type expected,
                typename emulator::Same<Value>::Type value) {
    __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
