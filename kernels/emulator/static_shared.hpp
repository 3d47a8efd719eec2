// `__shared__` arrays of fixed size, and where they lie, so that they can be filled before every block.
//
// They are thread-local variables in an ELF section of their own, whose bounds the linker gives. A section has one set
// of flags, and the compiler gives variables of templates other flags than those of plain functions; so it is told a
// different name each time, of which the assembler takes all but the section's name for a comment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct StaticShared {
    unsigned char* start = nullptr;
    size_t bytes = 0;
};

}  // namespace emulator

#if defined(__x86_64__) && !defined(__clang__)

#include <link.h>

#define EMULATOR_TEXT_OF(token) #token
#define EMULATOR_TEXT(token) EMULATOR_TEXT_OF(token)
#define __shared__ \
    static thread_local __attribute__((section("emulator_shared,\"awT\",@progbits#" EMULATOR_TEXT(__COUNTER__))))

// The initial image of the section. Null if no kernel has such an array.
extern "C" {
extern __attribute__((weak, visibility("hidden"))) unsigned char __start_emulator_shared[];
extern __attribute__((weak, visibility("hidden"))) unsigned char __stop_emulator_shared[];
}

namespace emulator {

constexpr bool knows_static_shared = true;

// Where the section lies for the OS thread that asks: at the same place in its thread-local data as in their image.
inline StaticShared find_static_shared() {
    StaticShared found;
    if (!__start_emulator_shared) return found;
    [[maybe_unused]] static thread_local volatile bool is_touched;
    is_touched = true;  // A thread's data of a loaded library are made when it first touches one of its variables.
    const auto look = [](dl_phdr_info* module, size_t, void* result) {
        for (int number = 0; number < module->dlpi_phnum; number++) {
            const auto& header = module->dlpi_phdr[number];
            const auto image = static_cast<uintptr_t>(module->dlpi_addr + header.p_vaddr);
            const auto start = reinterpret_cast<uintptr_t>(__start_emulator_shared);
            if (header.p_type != PT_TLS || start < image || start - image >= header.p_memsz) continue;
            auto& shared = *static_cast<StaticShared*>(result);
            shared.start = static_cast<unsigned char*>(module->dlpi_tls_data) + (start - image);
            shared.bytes = static_cast<size_t>(__stop_emulator_shared - __start_emulator_shared);
            return 1;
        }
        return 0;
    };
    dl_iterate_phdr(look, &found);
    return found;
}

}  // namespace emulator

#else

#define __shared__ static thread_local

namespace emulator {

constexpr bool knows_static_shared = false;

inline StaticShared find_static_shared() { return {}; }

}  // namespace emulator

#endif
