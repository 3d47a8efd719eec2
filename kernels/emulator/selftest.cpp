// Proves the emulator on kernels whose results are known:
//
//     cd kernels/emulator
//     g++ -std=c++17 -O1 -pthread -I .. selftest.cpp -o selftest && ./selftest
#define EMULATED
#include "selftest.cu"

#include "abi.hpp"

#include <chrono>

REGISTER(reduce_block);
REGISTER(reduce_without_barrier);
REGISTER(collectives);
REGISTER(product_bf16);
REGISTER(product_s8);
REGISTER(transpose);
REGISTER(copies);
REGISTER(copies_without_wait);
REGISTER(divergent_barrier);
REGISTER(half_a_warp);
REGISTER(product_of_few_lanes);
REGISTER(odd_address);
REGISTER(past_shared);
REGISTER(store);
REGISTER(read_unwritten);
REGISTER(count_all);
REGISTER(convert);
REGISTER(coordinates);
REGISTER(sums_through_shared);
REGISTER(many_collectives);
REGISTER(many_products);

static int failures = 0;

static void check(bool holds, const char* fact) {
    if (holds) return;
    failures++;
    printf("FAILED: %s\n", fact);
}

static void check_says(const std::string& error, const std::string& part) {
    if (error.find(part) != std::string::npos) return;
    failures++;
    printf("FAILED: wanted an error with \"%s\", got \"%s\"\n", part.c_str(), error.c_str());
}

// Device memory with the given contents; checks its surroundings when it goes.
template <class Item>
struct Buffer {
    explicit Buffer(size_t count) : items(static_cast<Item*>(emulator_alloc(count * sizeof(Item)))) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { check(emulator_free(items) == 0, "nothing is written next to a buffer"); }

    Item& operator[](size_t index) const { return items[index]; }

    Item* items;
};

// Launches along x and returns the error.
template <class... Arguments>
static std::string start(const char* kernel, unsigned grid, unsigned block, size_t shared_bytes,
                         Arguments... arguments) {
    const unsigned grid_size[3] = {grid, 1, 1}, block_size[3] = {block, 1, 1};
    void* pointers[] = {&arguments..., nullptr};
    char error[1024];
    const int result = emulator_launch(kernel, grid_size, block_size, shared_bytes, pointers, error, sizeof error);
    check((result != 0) == (error[0] != 0), "a failed launch says why");
    return error;
}

template <class... Arguments>
static void run(const char* kernel, unsigned grid, unsigned block, size_t shared_bytes, Arguments... arguments) {
    const std::string error = start(kernel, grid, block, shared_bytes, arguments...);
    check(error.empty(), error.c_str());
}

static void a_block_reduces(emulator::Random& random) {
    constexpr unsigned blocks = 5;
    Buffer<float> values(blocks * block_threads), sums(blocks);
    float wanted[blocks] = {};
    for (unsigned i = 0; i < blocks * block_threads; i++) {
        values[i] = static_cast<float>(random.below(100));
        wanted[i / block_threads] += values[i];
    }
    run("reduce_block", blocks, block_threads, 0, values.items, sums.items);
    for (unsigned i = 0; i < blocks; i++) check(sums[i] == wanted[i], "a block adds up its values");
}

static void collectives_move_values() {
    Buffer<int> out(32 * 12);
    run("collectives", 1, 32, 0, out.items);
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; lane += 3) ballot |= 1u << lane;
    for (int lane = 0; lane < 32; lane++) {
        const int* own = out.items + lane * 12;
        check(own[0] == (lane + 5) % 32 * 10, "shfl wraps around");
        check(own[1] == (lane < 3 ? lane : lane - 3), "shfl_up keeps the first");
        check(own[2] == (lane > 28 ? lane : lane + 3), "shfl_down keeps the last");
        check(own[3] == (lane ^ 9), "shfl_xor");
        check(own[4] == (lane % 8 > 4 ? lane : lane + 3), "shfl_down stays in its segment");
        check(own[5] == static_cast<int>(ballot), "ballot");
        check(own[6] == 3, "any and all");
        check(own[7] == (lane < 16 ? lane ^ 1 : lane ^ 2), "halves of a warp shuffle apart");
        check(own[8] == 1 + (lane ^ 1), "shfl of 64 bits");
        check(own[9] == 11, "syncthreads_count");
        check(own[10] == 3, "syncthreads_or and _and");
        check(own[11] == (lane < 24 ? 24 : -1), "a barrier does without threads that returned");
    }
}

static void products_match_naive_ones(emulator::Random& random) {
    Buffer<uint16_t> a(16 * 16), b(16 * 8);
    Buffer<float> c(16 * 8);
    for (unsigned i = 0; i < 16 * 16; i++) a[i] = to_bf16(static_cast<float>(random.below(2000)) / 1000 - 1);
    for (unsigned i = 0; i < 16 * 8; i++) b[i] = to_bf16(static_cast<float>(random.below(2000)) / 1000 - 1);
    run("product_bf16", 1, 32, (16 * 16 + 16 * 8) * 2, a.items, b.items, c.items);
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            double sum = 0;
            for (int k = 0; k < 16; k++) sum += double{from_bf16(a[i * 16 + k])} * from_bf16(b[k * 8 + j]);
            check(fabs(c[i * 8 + j] - sum) < 1e-5, "mma_bf16 with ldmatrix");
        }
    }

    Buffer<int8_t> bytes_a(16 * 32), bytes_b(8 * 32);
    Buffer<int> counts(16 * 8);
    for (unsigned i = 0; i < 16 * 32; i++) bytes_a[i] = static_cast<int8_t>(random.below(256));
    for (unsigned i = 0; i < 8 * 32; i++) bytes_b[i] = static_cast<int8_t>(random.below(256));
    for (int i = 0; i < 16 * 8; i++) counts[i] = i;
    run("product_s8", 1, 32, (16 * 32 + 8 * 32), bytes_a.items, bytes_b.items, counts.items);
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            int sum = i * 8 + j;
            for (int k = 0; k < 32; k++) sum += bytes_a[i * 32 + k] * bytes_b[j * 32 + k];
            check(counts[i * 8 + j] == sum, "mma_s8 with ldmatrix");
        }
    }

    Buffer<uint16_t> matrices(32 * 8), out(32 * 8);
    for (unsigned i = 0; i < 32 * 8; i++) matrices[i] = static_cast<uint16_t>(random.below(65536));
    run("transpose", 1, 32, 32 * 16, matrices.items, out.items);
    for (int i = 0; i < 32; i++) {
        for (int j = 0; j < 8; j++) {
            check(out[i * 8 + j] == matrices[(i / 8 * 8 + j) * 8 + i % 8], "ldmatrix_x4_trans");
        }
    }
}

static void copies_arrive_at_the_wait(emulator::Random& random) {
    constexpr int threads = 64, tiles = 5, rows = threads * tiles - 9;
    Buffer<uint4> source(rows);
    Buffer<unsigned> sums(threads);
    unsigned wanted[threads] = {};
    for (int i = 0; i < rows; i++) {
        source[i] = {random.below(1000), random.below(1000), random.below(1000), random.below(1000)};
        wanted[(i + threads - 1) % threads] += source[i].x + source[i].y + source[i].z + source[i].w;
    }
    run("copies", 1, threads, 2 * threads * 16, source.items, tiles, rows, sums.items);
    for (int i = 0; i < threads; i++) check(sums[i] == wanted[i], "copies through a double buffer, the last rows zero");

    run("copies_without_wait", 1, threads, 2 * threads * 16, source.items, tiles, rows, sums.items);
    bool is_wrong = true;
    for (int i = 0; i < threads; i++) is_wrong &= sums[i] != wanted[i];
    check(is_wrong, "a wait that is too weak gives wrong sums");
}

static void a_missing_barrier_shows() {
    Buffer<float> values(block_threads), sums(3);
    for (int i = 0; i < block_threads; i++) values[i] = 1;
    emulator_order(0, 0);
    run("reduce_without_barrier", 1, block_threads, block_threads * 4, values.items, sums.items);
    emulator_order(1, 0);
    run("reduce_without_barrier", 1, block_threads, block_threads * 4, values.items, sums.items + 1);
    check(isnan(sums[0]), "forward, the first warp reads what was not written");
    check(sums[1] == block_threads, "in reverse, the first warp comes last");
    emulator_order(0, 0);
}

static void errors_are_reported() {
    Buffer<float> out(64);
    const std::string divergent = start("divergent_barrier", 1, 64, 0);
    check_says(divergent, "kernel divergent_barrier, block (0, 0, 0)");
    check_says(divergent, "threads 0-39 wait at __syncthreads, selftest.cu:");
    check_says(divergent, "threads 40-63 wait at __syncthreads, selftest.cu:");
    const std::string half = start("half_a_warp", 1, 64, 0);
    check_says(half, "threads 0-15 wait at __syncwarp with mask 0xffffffff, selftest.cu:");
    check_says(half, "threads 16-63 wait at __syncthreads, selftest.cu:");
    check_says(start("product_of_few_lanes", 1, 32, 0, out.items), "mma_bf16 needs all 32 lanes");
    check_says(start("odd_address", 1, 32, 1024, out.items), "lane 5 gives ldmatrix_x2 a row that is not 16-byte");
    if (emulator::knows_static_shared) {
        check_says(start("odd_address", 1, 32, 64, out.items), "ldmatrix_x2 a row outside shared memory");
    }
    check_says(start("past_shared", 1, 32, 124, out.items), "written outside its 124 bytes of dynamic shared memory");
    check_says(start("nothing", 1, 32, 0), "kernel nothing is not registered");
    check_says(start("store", 1, 1025, 0), "block (1025, 1, 1) is empty or too large");
    check_says(start("store", 1, 32, 228 << 10), "more than 232448");
}

static void damage_is_reported() {
    if (const char* guard = getenv("EMULATOR_GUARD"); guard && *guard == '1') return;  // It crashes then, as it should.
    int* words = static_cast<int*>(emulator_alloc(10 * sizeof(int)));
    check(words[9] == -1, "memory starts as 0xFF bytes");
    char error[256];
    check(emulator_check(error, sizeof error) == 0, "nothing is damaged yet");
    run("store", 1, 1, 0, words, 11);
    check(emulator_check(error, sizeof error) != 0, "damage is noticed");
    check_says(error, "allocation of 40 bytes written 4 bytes past its end");
    check(emulator_free(words) == 1, "free reports damage");
    check(emulator_free(words) == 2, "free knows what it gave out");
    words = static_cast<int*>(emulator_alloc(10 * sizeof(int)));
    run("store", 1, 1, 0, words, -1);
    check(emulator_free(words) == 1, "damage before the start counts too");
}

static void shared_memory_starts_poisoned() {
    constexpr unsigned blocks = 7;
    Buffer<float> out(blocks * 32);
    run("read_unwritten", blocks, 32, 128, out.items);
    for (unsigned i = 0; i < blocks * 32; i++) check(isnan(out[i]), "what was not written reads as NaN");
}

static void threads_know_where_they_are() {
    const unsigned grid[3] = {3, 2, 2}, block[3] = {4, 3, 5};
    Buffer<int> out(12 * 60);
    void* arguments[] = {&out.items};
    check(emulator_launch("coordinates", grid, block, 0, arguments, nullptr, 0) == 0, "a launch in three dimensions");
    const int* at = out.items;
    for (int outer = 0; outer < 12; outer++) {
        for (int inner = 0; inner < 60; inner++) {
            const int of_block = outer % 3 * 100 + outer / 3 % 2 * 10 + outer / 6;
            const int of_thread = inner % 4 * 100 + inner / 4 % 3 * 10 + inner / 12;
            check(*at++ == of_block * 1000 + of_thread, "coordinates of threads and blocks");
        }
    }
}

static void templates_have_their_own_arrays() {
    Buffer<float> out(32);
    run("sums_through_shared", 1, 32, 0, out.items);
    for (int i = 0; i < 32; i++) check(out[i] == 8 + 64, "shared arrays of templates");
}

static void blocks_add_up_atomically() {
    Buffer<unsigned> count(1), last_total(3);
    Buffer<float> sum(1);
    count[0] = 0;
    sum[0] = 0;
    last_total[1] = 0;
    run("count_all", 40, 64, 0, count.items, sum.items, last_total.items);
    check(count[0] == 2560 && last_total[0] == 2560, "atomicAdd counts every thread");
    check(sum[0] == 1280, "atomicAdd of f32");
    check(last_total[1] == 39 && last_total[2] == 0, "atomicMax and atomicMin");
}

static void bf16_rounds_to_even() {
    const float values[] = {1.0f, 1.00390625f, 1.01171875f, -1.00390625f, 3.4028235e38f, NAN, 0.0f, -2.5f};
    const uint16_t wanted[] = {0x3F80, 0x3F80, 0x3F82, 0xBF80, 0x7F80, 0x7FFF, 0, 0xC020};
    Buffer<float> in(8), power(8);
    Buffer<uint16_t> rounded(8);
    Buffer<uint32_t> packed(8);
    for (int i = 0; i < 8; i++) in[i] = values[i];
    run("convert", 1, 8, 0, in.items, rounded.items, packed.items, power.items);
    for (int i = 0; i < 8; i++) {
        check(rounded[i] == wanted[i], "to_bf16");
        check(packed[i] == (wanted[i] | uint32_t{wanted[(i + 1) % 8]} << 16), "pack_bf16");
    }
    check(power[0] == 2 + 1 + 1, "exp2_fast, low_bf16 and high_bf16");
}

static void intrinsics_match_their_definition() {
    check(__byte_perm(0x03020100, 0x07060504, 0x7146) == 0x07010406, "__byte_perm");
    check(__dp4a(0x01FF0280, 0x7F7F0302, 5) == 127 - 127 + 6 - 256 + 5, "__dp4a");
    check(__brev(0x80000001) == 0x80000001 && __brev(2) == 0x40000000, "__brev");
    check(__clz(0) == 32 && __clz(1) == 31 && __clz(-1) == 0 && __ffs(0) == 0 && __ffs(8) == 4, "__clz and __ffs");
    check(__float2int_rn(2.5f) == 2 && __float2int_rn(-3.5f) == -4, "__float2int_rn rounds to even");
    check(__float2int_rn(1e10f) == INT_MAX && __float2int_rn(NAN) == 0, "__float2int_rn saturates");
    check(__umulhi(0x80000000u, 6) == 3 && __umul64hi(1ull << 63, 6) == 3, "__umulhi");
    check(min(3, -1) == -1 && max(2u, 7u) == 7 && min(NAN, 1.0f) == 1, "min and max");
}

static double seconds_of(const char* kernel, int rounds) {
    Buffer<int> out(100 * 256);
    const auto started = std::chrono::steady_clock::now();
    run(kernel, 100, 256, 0, rounds, out.items);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

int main() {
    for (int mode = 0; mode < 3; mode++) {
        for (unsigned seed = 0; seed < (mode == 2 ? 8 : 1); seed++) {
            emulator_order(mode, seed);
            emulator::Random random(seed);
            a_block_reduces(random);
            collectives_move_values();
            products_match_naive_ones(random);
            copies_arrive_at_the_wait(random);
            errors_are_reported();
            shared_memory_starts_poisoned();
            threads_know_where_they_are();
            templates_have_their_own_arrays();
            blocks_add_up_atomically();
            bf16_rounds_to_even();
        }
    }
    a_missing_barrier_shows();
    damage_is_reported();
    intrinsics_match_their_definition();
    printf("100 blocks of 256 threads: 50 collectives %.3f s, 50 products %.3f s\n", seconds_of("many_collectives", 33),
           seconds_of("many_products", 50));
    puts(failures ? "selftest failed" : "selftest passed");
    return failures ? 1 : 0;
}
