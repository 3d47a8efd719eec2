// The C functions by which tests in other languages launch kernels and get device memory. One source file includes it.
//
// An `error` buffer receives a message that ends in a zero byte, cut if it does not fit; it may be null.
#pragma once

#include "launch.hpp"
#include "memory.hpp"

namespace emulator {

inline int report(const std::string& message, char* error, size_t error_size) {
    if (error && error_size) snprintf(error, error_size, "%s", message.c_str());
    return message.empty() ? 0 : 1;
}

}  // namespace emulator

extern "C" {

// Returns zero when all blocks have ended. `args[i]` points at parameter i, as for cuLaunchKernel.
int emulator_launch(const char* kernel, const unsigned grid[3], const unsigned block[3], size_t shared_bytes,
                    void** args, char* error, size_t error_size) {
    const std::string message = emulator::launch(kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                                                 shared_bytes, args);
    return emulator::report(message, error, error_size);
}

// Chooses who runs first of blocks, warps and lanes: 0 forward, 1 reverse, 2 shuffled by `seed`.
void emulator_order(int mode, unsigned seed) {
    emulator::settings.order = mode < 0 || mode > 2 ? 0 : mode;
    emulator::settings.seed = seed;
}

// Sets how many OS threads share out the blocks of a launch.
void emulator_threads(int count) { emulator::settings.threads = count < 1 ? 1 : count; }

// Returns device memory full of 0xFF bytes, or null.
void* emulator_alloc(size_t bytes) { return emulator::allocate(bytes); }

// Returns nonzero if something wrote next to the allocation (1), or if it is none (2).
int emulator_free(void* pointer) { return static_cast<int>(emulator::release(pointer)); }

// Returns nonzero if something wrote next to any allocation.
int emulator_check(char* error, size_t error_size) {
    return emulator::report(emulator::check_memory(), error, error_size);
}

}  // extern "C"
