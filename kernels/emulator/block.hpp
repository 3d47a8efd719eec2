// Runs one block: its threads as fibres, its barriers, and the meeting points of its warps.
//
// A fibre runs until it meets others: a block barrier, or a collective of its warp. Between two barriers a warp runs as
// far ahead as it can, and within it a lane as far as the next collective, in an order that the caller chooses. A
// missing barrier is therefore no matter of luck: in one order or another the wrong value is read, every time.
#pragma once

#include "fibre.hpp"
#include "static_shared.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

constexpr unsigned warp_lanes = 32;
constexpr unsigned all_lanes = ~0u;
constexpr int poison = 0xFF;  // Bytes nobody wrote: NaN as f32 and bf16, -1 as an integer.

// Where the fibres wait. Threads meet only at the same line: CUDA asks for that, and it makes a report readable.
struct Site {
    const char* operation = nullptr;
    const char* file = nullptr;
    int line = 0;

    bool operator==(const Site& other) const {
        return line == other.line && file == other.file && operation == other.operation;
    }
};

// An asynchronous copy that was started and not yet waited for.
struct Copy {
    void* shared;
    const void* global;
    bool is_there;
    unsigned group;
};

struct Block;
struct Warp;

struct Thread {
    Context context;
    Block* block = nullptr;
    Warp* warp = nullptr;
    unsigned lane = 0;
    uint3 index{};

    // What the thread waits at; the operands lie on its own stack.
    Site site;
    unsigned mask = 0;
    void* operands = nullptr;

    std::vector<Copy> copies;
    unsigned open_group = 0;
};

// Reads the operands of the participants and writes their results. The last lane to arrive runs it.
using Collective = void (*)(Warp&, unsigned participants);

// Lanes of one warp that wait for each other.
struct Meeting {
    Site site;
    unsigned mask;
    Collective collective;
    unsigned arrived;
};

// Sets of lanes are bit masks.
struct Warp {
    Thread* threads = nullptr;
    unsigned live = 0;
    unsigned ready = 0;
    unsigned at_barrier = 0;
    std::vector<Meeting> meetings;

    template <class Operands>
    Operands& operands(unsigned lane) {
        return *static_cast<Operands*>(threads[lane].operands);
    }
};

enum class Order { forward, reverse, shuffled };

// Random numbers that are the same everywhere (xorshift64*, Vigna, arXiv 1402.6246).
struct Random {
    uint64_t state;

    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15u + 0xD1B54A32D192ED03u) {
        if (state == 0) state = 1;
    }
    unsigned below(unsigned limit) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<unsigned>((state * 0x2545F4914F6CDD1Du >> 32) * limit >> 32);
    }
};

template <class Item>
void shuffle_items(Item* items, unsigned count, Random& random) {
    for (unsigned left = count; left > 1; left--) std::swap(items[left - 1], items[random.below(left)]);
}

struct Block {
    uint3 index{};
    dim3 size, grid;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    StaticShared static_shared;
    void (*kernel)(void** arguments) = nullptr;
    void** arguments = nullptr;

    Context scheduler;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<Stack> stacks;
    unsigned live = 0;
    std::string error;

    // The barrier that fills up, and what the last full one counted: late readers must not see the next count.
    Site barrier_site;
    unsigned arrived = 0, truths = 0;
    unsigned released_arrived = 0, released_truths = 0;
};

// The thread whose code runs on this OS thread.
inline thread_local Thread* running = nullptr;

inline void to_scheduler(Thread& thread) { switch_context(thread.context, thread.block->scheduler); }

// Ends the launch with an error. The fibres of the block are dropped where they stand.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    running->block->error = text;
    to_scheduler(*running);
    __builtin_unreachable();
}

// Whether 16 bytes at the address are shared memory of the block.
inline bool is_shared(const Block& block, const void* address) {
    const auto* bytes = static_cast<const unsigned char*>(address);
    const auto lies_in = [&](const unsigned char* start, size_t count) {
        return bytes >= start && bytes + 16 <= start + count;
    };
    if (!knows_static_shared) return true;
    return lies_in(block.shared, block.shared_bytes) || lies_in(block.static_shared.start, block.static_shared.bytes);
}

inline const char* file_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

inline void finish_if_complete(Warp& warp, size_t number) {
    Meeting meeting = warp.meetings[number];
    if (meeting.arrived != (meeting.mask & warp.live)) return;
    warp.meetings[number] = warp.meetings.back();
    warp.meetings.pop_back();
    meeting.collective(warp, meeting.arrived);
    warp.ready |= meeting.arrived;
}

// Waits for the live lanes of `mask` at the same site. The last one computes; then all go on, in the chosen order.
inline void meet(const Site& site, unsigned mask, Collective collective, void* operands) {
    Thread& thread = *running;
    Warp& warp = *thread.warp;
    const unsigned bit = 1u << thread.lane;
    thread.site = site;
    thread.mask = mask;
    thread.operands = operands;
    if (!(mask & bit)) {
        fail("lane %u calls %s with mask %#x, which leaves it out, %s:%d", thread.lane, site.operation, mask,
             file_name(site.file), site.line);
    }
    size_t number = 0;
    while (number < warp.meetings.size()) {
        const Meeting& open = warp.meetings[number];
        if (open.site == site && open.mask == mask && open.collective == collective) break;
        number++;
    }
    if (number == warp.meetings.size()) warp.meetings.push_back({site, mask, collective, 0});
    warp.meetings[number].arrived |= bit;
    warp.ready &= ~bit;
    finish_if_complete(warp, number);
    to_scheduler(thread);
}

inline void release_if_complete(Block& block) {
    if (block.arrived == 0 || block.arrived != block.live) return;
    block.released_arrived = block.arrived;
    block.released_truths = block.truths;
    block.arrived = block.truths = 0;
    for (Warp& warp : block.warps) {
        warp.ready |= warp.at_barrier;
        warp.at_barrier = 0;
    }
}

// Waits for all live threads of the block. Who comes to another barrier than the first is not counted: nobody goes on.
inline void barrier(const Site& site, bool predicate) {
    Thread& thread = *running;
    Block& block = *thread.block;
    const unsigned bit = 1u << thread.lane;
    thread.site = site;
    thread.mask = 0;
    if (block.arrived == 0) block.barrier_site = site;
    if (block.barrier_site == site) {
        block.arrived++;
        block.truths += predicate;
    }
    thread.warp->ready &= ~bit;
    thread.warp->at_barrier |= bit;
    release_if_complete(block);
    to_scheduler(thread);
}

// Runs on the fibre. A thread that has returned holds nobody up any more.
inline void thread_main() {
    Thread& thread = *running;
    Block& block = *thread.block;
    Warp& warp = *thread.warp;
    block.kernel(block.arguments);
    const unsigned bit = 1u << thread.lane;
    warp.live &= ~bit;
    warp.ready &= ~bit;
    block.live--;
    for (size_t number = warp.meetings.size(); number-- > 0;) finish_if_complete(warp, number);
    release_if_complete(block);
    to_scheduler(thread);
}

// Lists who waits at what, threads with the same site and mask together.
inline std::string describe_deadlock(const Block& block) {
    std::string text = "no thread can go on";
    const unsigned count = static_cast<unsigned>(block.threads.size());
    std::vector<bool> told(count);
    for (unsigned first = 0; first < count; first++) {
        const Thread& thread = block.threads[first];
        const auto waits_alike = [&](unsigned number) {
            const Thread& other = block.threads[number];
            return (other.warp->live >> other.lane & 1) && other.site == thread.site && other.mask == thread.mask;
        };
        if (told[first] || !waits_alike(first)) continue;
        text += "; threads ";
        const char* comma = "";
        for (unsigned number = first; number < count; number++) {
            if (told[number] || !waits_alike(number)) continue;
            const unsigned start = number;
            while (number < count && waits_alike(number)) told[number++] = true;
            text += comma + std::to_string(start);
            if (number - start > 1) text += "-" + std::to_string(number - 1);
            comma = ",";
        }
        text += std::string(" wait at ") + thread.site.operation;
        if (thread.mask) {
            char mask[32];
            snprintf(mask, sizeof mask, " with mask %#x", thread.mask);
            text += mask;
        }
        text += std::string(", ") + file_name(thread.site.file) + ":" + std::to_string(thread.site.line);
    }
    return text;
}

inline void start_threads(Block& block) {
    const unsigned count = block.size.x * block.size.y * block.size.z;
    const unsigned warp_count = (count + warp_lanes - 1) / warp_lanes;
    while (block.stacks.size() < count) block.stacks.emplace_back(static_cast<unsigned>(block.stacks.size()));
    block.threads.resize(count);
    block.warps.resize(warp_count);
    for (unsigned number = 0; number < warp_count; number++) {
        Warp& warp = block.warps[number];
        const unsigned lanes = count - number * warp_lanes;
        warp.threads = &block.threads[number * warp_lanes];
        warp.live = warp.ready = lanes >= warp_lanes ? all_lanes : (1u << lanes) - 1;
        warp.at_barrier = 0;
        warp.meetings.clear();
    }
    for (unsigned number = 0; number < count; number++) {
        Thread& thread = block.threads[number];
        thread.block = &block;
        thread.warp = &block.warps[number / warp_lanes];
        thread.lane = number % warp_lanes;
        thread.index.x = number % block.size.x;
        thread.index.y = number / block.size.x % block.size.y;
        thread.index.z = number / (block.size.x * block.size.y);
        thread.copies.clear();
        thread.open_group = 0;
        prepare(thread.context, block.stacks[number], thread_main);
    }
    block.live = count;
    block.arrived = block.truths = 0;
    block.error.clear();
}

// The warp to run next: the first ready one from the front, from the back, or from anywhere. Null if none is ready.
inline Warp* next_warp(Block& block, Order order, Random& random) {
    const unsigned count = static_cast<unsigned>(block.warps.size());
    const unsigned start = order == Order::shuffled ? random.below(count) : 0;
    for (unsigned step = 0; step < count; step++) {
        const unsigned number = order == Order::reverse ? count - 1 - step : (start + step) % count;
        if (block.warps[number].ready) return &block.warps[number];
    }
    return nullptr;
}

// Runs the block to its end, or until `block.error` says what went wrong.
inline void run_block(Block& block, Order order, Random random) {
    start_threads(block);
    unsigned lanes[warp_lanes];
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        lanes[lane] = order == Order::reverse ? warp_lanes - 1 - lane : lane;
    }
    while (block.live && block.error.empty()) {
        Warp* warp = next_warp(block, order, random);
        if (!warp) {
            block.error = describe_deadlock(block);
            break;
        }
        if (order == Order::shuffled) shuffle_items(lanes, warp_lanes, random);
        for (unsigned lane : lanes) {
            if (!(warp->ready >> lane & 1)) continue;
            running = &warp->threads[lane];
            switch_context(block.scheduler, running->context);
            if (!block.error.empty()) break;
        }
    }
    running = nullptr;
}

}  // namespace emulator
