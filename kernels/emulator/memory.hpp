// Device memory that notices writes out of bounds.
//
// By default an allocation has a canary of a known pattern on both sides. With EMULATOR_GUARD=1 in the environment it
// ends at an inaccessible page instead, so that a read or write past the end crashes on the spot; its start is then
// aligned to 16 bytes only.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>

namespace emulator {

constexpr size_t canary_bytes = 4096;
constexpr unsigned char canary = 0xC7;

// `[before][bytes][after]`, the outer two full of the canary.
struct Allocation {
    unsigned char* before;
    unsigned char* start;
    size_t bytes;
    unsigned char* end_of_after;
    size_t mapped;  // Zero if it comes from the heap.
};

struct Memory {
    std::mutex mutex;
    std::map<const void*, Allocation> allocations;
};

inline Memory memory;

inline size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Null if there is no memory.
inline void* allocate(size_t bytes) {
    constexpr size_t page = 64 << 10;  // At least a page on every architecture.
    const char* guard = getenv("EMULATOR_GUARD");
    Allocation made{};
    made.bytes = bytes;
    if (guard && strcmp(guard, "1") == 0) {
        const size_t usable = round_up(canary_bytes + round_up(bytes, 16), page);
        made.mapped = usable + page;
        void* mapped = mmap(nullptr, made.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) return nullptr;
        made.before = static_cast<unsigned char*>(mapped);
        made.end_of_after = made.before + usable;
        made.start = made.end_of_after - round_up(bytes, 16);
        mprotect(made.end_of_after, page, PROT_NONE);
    } else {
        const size_t all = canary_bytes + round_up(bytes, 256) + canary_bytes;
        made.before = static_cast<unsigned char*>(aligned_alloc(256, all));
        if (!made.before) return nullptr;
        made.start = made.before + canary_bytes;
        made.end_of_after = made.before + all;
    }
    memset(made.before, canary, static_cast<size_t>(made.start - made.before));
    memset(made.start, 0xFF, bytes);
    memset(made.start + bytes, canary, static_cast<size_t>(made.end_of_after - (made.start + bytes)));
    const std::lock_guard<std::mutex> lock(memory.mutex);
    memory.allocations[made.start] = made;
    return made.start;
}

// Empty if both canaries are whole.
inline std::string describe_damage(const Allocation& made) {
    char text[128];
    for (const unsigned char* at = made.start; at-- > made.before;) {
        if (*at == canary) continue;
        snprintf(text, sizeof text, "allocation of %zu bytes written %zu bytes before its start", made.bytes,
                 static_cast<size_t>(made.start - at));
        return text;
    }
    for (const unsigned char* at = made.start + made.bytes; at < made.end_of_after; at++) {
        if (*at == canary) continue;
        snprintf(text, sizeof text, "allocation of %zu bytes written %zu bytes past its end", made.bytes,
                 static_cast<size_t>(at - (made.start + made.bytes)));
        return text;
    }
    return {};
}

inline std::string check_memory() {
    const std::lock_guard<std::mutex> lock(memory.mutex);
    for (const auto& entry : memory.allocations) {
        std::string damage = describe_damage(entry.second);
        if (!damage.empty()) return damage;
    }
    return {};
}

enum class Freed { whole = 0, damaged = 1, unknown = 2 };

inline Freed release(void* start) {
    const std::lock_guard<std::mutex> lock(memory.mutex);
    const auto found = memory.allocations.find(start);
    if (found == memory.allocations.end()) return Freed::unknown;
    const Allocation made = found->second;
    memory.allocations.erase(found);
    const bool is_whole = describe_damage(made).empty();
    if (made.mapped) {
        munmap(made.before, made.mapped);
    } else {
        free(made.before);
    }
    return is_whole ? Freed::whole : Freed::damaged;
}

}  // namespace emulator
