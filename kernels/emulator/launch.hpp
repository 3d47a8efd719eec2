// Launches a kernel by name: checks the limits, and shares the blocks out among OS threads.
#pragma once

#include "block.hpp"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace emulator {

constexpr unsigned max_threads = 1024;
constexpr size_t max_shared_bytes = 227 << 10;  // A block's limit from compute capability 9.0 on.
constexpr size_t shared_margin = 4096;          // Watched on both sides; a multiple of the alignment of 128.

using KernelCall = void (*)(void** arguments);

inline std::map<std::string, KernelCall>& kernels() {
    static std::map<std::string, KernelCall> by_name;
    return by_name;
}

// Calls `kernel` with the parameters that `arguments` points at one by one, as for cuLaunchKernel.
template <auto kernel, class... Parameters, size_t... index>
void call_with(void (*)(Parameters...), void** arguments, std::index_sequence<index...>) {
    kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[index])...);
}

template <class... Parameters>
std::index_sequence_for<Parameters...> indices_of(void (*)(Parameters...));

template <auto kernel>
void call(void** arguments) {
    call_with<kernel>(kernel, arguments, decltype(indices_of(kernel)){});
}

struct Registration {
    Registration(const char* name, KernelCall call) { kernels()[name] = call; }
};

#define REGISTER(name) static const emulator::Registration registration_of_##name(#name, emulator::call<name>)

// What one OS thread needs to run blocks. Kept between launches: making a thousand stacks takes a while.
struct Worker {
    Block block;
    std::unique_ptr<unsigned char[]> buffer{new unsigned char[128 + 2 * shared_margin + max_shared_bytes]};

    unsigned char* shared() const {
        const auto address = reinterpret_cast<uintptr_t>(buffer.get()) + shared_margin;
        return reinterpret_cast<unsigned char*>((address + 127) / 128 * 128);
    }
};

struct Settings {
    std::atomic<int> order{0};
    std::atomic<unsigned> seed{0};
    std::atomic<int> threads{2};

    std::mutex mutex;
    std::vector<std::unique_ptr<Worker>> idle;
};

inline Settings settings;

inline std::unique_ptr<Worker> take_worker() {
    const std::lock_guard<std::mutex> lock(settings.mutex);
    if (settings.idle.empty()) return std::make_unique<Worker>();
    std::unique_ptr<Worker> worker = std::move(settings.idle.back());
    settings.idle.pop_back();
    return worker;
}

inline void return_worker(std::unique_ptr<Worker> worker) {
    const std::lock_guard<std::mutex> lock(settings.mutex);
    settings.idle.push_back(std::move(worker));
}

struct Launch {
    const char* name = nullptr;
    KernelCall kernel = nullptr;
    dim3 grid, block;
    size_t shared_bytes = 0;
    void** arguments = nullptr;
    Order order = Order::forward;
    unsigned seed = 0;

    unsigned long long blocks = 0;
    std::vector<unsigned> shuffled;  // The order of the blocks, if it is a shuffled one.
    std::atomic<unsigned long long> next{0};
    std::atomic<bool> has_failed{false};
    std::mutex mutex;
    std::string error;

    unsigned long long block_at(unsigned long long turn) const {
        if (order == Order::reverse) return blocks - 1 - turn;
        return order == Order::shuffled ? shuffled[turn] : turn;
    }
};

inline bool is_poisoned(const unsigned char* bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != poison) return false;
    }
    return true;
}

inline void run_blocks(Launch& launch) {
    std::unique_ptr<Worker> worker = take_worker();
    Block& block = worker->block;
    block.size = launch.block;
    block.grid = launch.grid;
    block.shared = worker->shared();
    block.shared_bytes = launch.shared_bytes;
    block.static_shared = find_static_shared();
    block.kernel = launch.kernel;
    block.arguments = launch.arguments;
    unsigned char* const end = block.shared + launch.shared_bytes;
    memset(block.shared - shared_margin, poison, shared_margin);
    memset(end, poison, shared_margin);
    while (!launch.has_failed) {
        const unsigned long long turn = launch.next++;
        if (turn >= launch.blocks) break;
        const unsigned long long number = launch.block_at(turn);
        block.index.x = static_cast<unsigned>(number % launch.grid.x);
        block.index.y = static_cast<unsigned>(number / launch.grid.x % launch.grid.y);
        block.index.z = static_cast<unsigned>(number / launch.grid.x / launch.grid.y);
        memset(block.shared, poison, launch.shared_bytes);
        memset(block.static_shared.start, poison, block.static_shared.bytes);
        run_block(block, launch.order, Random(launch.seed * 0x100000001ull + number));
        if (block.error.empty() &&
            !(is_poisoned(block.shared - shared_margin, shared_margin) && is_poisoned(end, shared_margin))) {
            const std::string bytes = std::to_string(launch.shared_bytes);
            block.error = "written outside its " + bytes + " bytes of dynamic shared memory";
        }
        if (block.error.empty()) continue;
        launch.has_failed = true;
        const std::lock_guard<std::mutex> lock(launch.mutex);
        if (!launch.error.empty()) continue;
        launch.error = std::string("kernel ") + launch.name + ", block (" + std::to_string(block.index.x) + ", " +
                       std::to_string(block.index.y) + ", " + std::to_string(block.index.z) + "): " + block.error;
    }
    return_worker(std::move(worker));
}

// Empty if the launch is one that a GPU would take.
inline std::string describe_bad_shape(const dim3& grid, const dim3& block, size_t shared_bytes) {
    const auto shape = [](const dim3& size) {
        return "(" + std::to_string(size.x) + ", " + std::to_string(size.y) + ", " + std::to_string(size.z) + ")";
    };
    const unsigned long long threads = 1ull * block.x * block.y * block.z;
    if (threads == 0 || threads > max_threads || block.x > 1024 || block.y > 1024 || block.z > 64) {
        return "block " + shape(block) + " is empty or too large";
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) {
        return "grid " + shape(grid) + " is empty or too large";
    }
    if (shared_bytes > max_shared_bytes) {
        return std::to_string(shared_bytes) + " bytes of shared memory are more than " +
               std::to_string(max_shared_bytes);
    }
    return {};
}

// Runs the kernel to its end. Returns what went wrong, or nothing.
inline std::string launch(const char* name, const dim3& grid, const dim3& block, size_t shared_bytes,
                          void** arguments) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return std::string("kernel ") + name + " is not registered";
    const std::string bad_shape = describe_bad_shape(grid, block, shared_bytes);
    if (!bad_shape.empty()) return std::string("kernel ") + name + ": " + bad_shape;

    Launch launch;
    launch.name = name;
    launch.kernel = found->second;
    launch.grid = grid;
    launch.block = block;
    launch.shared_bytes = shared_bytes;
    launch.arguments = arguments;
    launch.order = static_cast<Order>(settings.order.load());
    launch.seed = settings.seed;
    launch.blocks = 1ull * grid.x * grid.y * grid.z;
    if (launch.order == Order::shuffled) {
        launch.shuffled.resize(launch.blocks);
        for (size_t i = 0; i < launch.shuffled.size(); i++) launch.shuffled[i] = static_cast<unsigned>(i);
        Random random(launch.seed);
        shuffle_items(launch.shuffled.data(), static_cast<unsigned>(launch.blocks), random);
    }
    std::vector<std::thread> helpers;
    for (int i = 1; i < settings.threads && static_cast<unsigned long long>(i) < launch.blocks; i++) {
        helpers.emplace_back([&launch] { run_blocks(launch); });
    }
    run_blocks(launch);
    for (std::thread& helper : helpers) helper.join();
    return launch.error;
}

}  // namespace emulator
