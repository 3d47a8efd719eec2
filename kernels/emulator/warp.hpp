// What the lanes of a warp do together: votes, shuffles, `ldmatrix` and tensor core products.
//
// Fragment layouts follow the PTX ISA: "Matrix Fragments for mma.m16n8k16" and "for mma.m16n8k32", and "ldmatrix".
// Throughout, `group = lane / 4` and `member = lane % 4`.
#pragma once

#include "block.hpp"

namespace emulator {

// The `.aligned` instructions are undefined unless all 32 lanes are there.
inline void want_all_lanes(Warp& warp, unsigned participants) {
    if (participants == all_lanes) return;
    const Site& site = warp.threads[__builtin_ctz(participants)].site;
    fail("%s needs all 32 lanes, but only those of mask %#x are there, %s:%d", site.operation, participants,
         file_name(site.file), site.line);
}

inline void only_meet(Warp&, unsigned) {}

struct Vote {
    bool predicate;
    unsigned ballot;
    unsigned participants;
};

inline void vote(Warp& warp, unsigned participants) {
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        if (participants >> lane & 1) ballot |= unsigned{warp.operands<Vote>(lane).predicate} << lane;
    }
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        if (!(participants >> lane & 1)) continue;
        warp.operands<Vote>(lane).ballot = ballot;
        warp.operands<Vote>(lane).participants = participants;
    }
}

enum class Shuffle { indexed, up, down, exclusive_or };

template <class Value>
struct ShuffleOperands {
    Value value;
    unsigned argument;
    unsigned width;
    Value result;
};

// A source outside the lane's segment gives the lane's own value; one that does not take part gives poison.
template <class Value, Shuffle kind>
void shuffle(Warp& warp, unsigned participants) {
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        if (!(participants >> lane & 1)) continue;
        auto& own = warp.operands<ShuffleOperands<Value>>(lane);
        const unsigned first = lane & ~(own.width - 1);
        const unsigned last = first + own.width - 1;
        const unsigned argument = own.argument & (warp_lanes - 1);
        unsigned source = lane;
        if (kind == Shuffle::indexed) source = first + (argument & (own.width - 1));
        if (kind == Shuffle::up && lane >= first + argument) source = lane - argument;
        if (kind == Shuffle::down && lane + argument <= last) source = lane + argument;
        if (kind == Shuffle::exclusive_or && (lane ^ argument) <= last) source = lane ^ argument;
        if (participants >> source & 1) {
            own.result = warp.operands<ShuffleOperands<Value>>(source).value;
        } else {
            memset(&own.result, poison, sizeof own.result);
        }
    }
}

template <Shuffle kind, class Value>
Value shuffled(const Site& site, unsigned mask, Value value, unsigned argument, int width) {
    static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "shuffles move 32 or 64 bits");
    if (width < 1 || width > 32 || (width & (width - 1))) {
        fail("%s has width %d, which is no power of two up to 32, %s:%d", site.operation, width, file_name(site.file),
             site.line);
    }
    ShuffleOperands<Value> operands{value, argument, static_cast<unsigned>(width), value};
    meet(site, mask, shuffle<Value, kind>, &operands);
    return operands.result;
}

struct MatrixRows {
    const void* row;
    uint32_t* registers;
};

template <unsigned matrices, bool transposed>
void load_matrices(Warp& warp, unsigned participants) {
    want_all_lanes(warp, participants);
    uint16_t rows[matrices * 8][8];
    for (unsigned lane = 0; lane < matrices * 8; lane++) {
        const void* row = warp.operands<MatrixRows>(lane).row;
        const Site& site = warp.threads[lane].site;
        if (reinterpret_cast<uintptr_t>(row) % 16) {
            fail("lane %u gives %s a row that is not 16-byte aligned, %s:%d", lane, site.operation,
                 file_name(site.file), site.line);
        }
        if (!is_shared(*warp.threads[lane].block, row)) {
            fail("lane %u gives %s a row outside shared memory, %s:%d", lane, site.operation, file_name(site.file),
                 site.line);
        }
        memcpy(rows[lane], row, 16);
    }
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        const unsigned group = lane / 4, pair = lane % 4 * 2;
        for (unsigned matrix = 0; matrix < matrices; matrix++) {
            uint16_t(*at)[8] = &rows[matrix * 8];
            const uint32_t low = transposed ? at[pair][group] : at[group][pair];
            const uint32_t high = transposed ? at[pair + 1][group] : at[group][pair + 1];
            warp.operands<MatrixRows>(lane).registers[matrix] = low | high << 16;
        }
    }
}

template <class Accumulator>
struct ProductOperands {
    Accumulator* d;
    const uint32_t* a;
    const uint32_t* b;
};

// One row of eight products at a time: vectors of the compiler, since -O1 would not make them from loops.
template <class Accumulator>
struct Row {
    typedef Accumulator Vector __attribute__((vector_size(8 * sizeof(Accumulator))));
};

// d += a·b for a [16, depth] and b [depth, 8]. A register holds `packed` neighbours along the depth.
// `unpack(register, i)` gives the i-th of them.
template <class Accumulator, unsigned depth, unsigned packed, class Unpack>
void multiply(Warp& warp, unsigned participants, Unpack unpack) {
    want_all_lanes(warp, participants);
    using Vector = typename Row<Accumulator>::Vector;
    Accumulator a[16][depth];
    Vector b[depth];
    Vector d[16];
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        const auto& own = warp.operands<ProductOperands<Accumulator>>(lane);
        const unsigned group = lane / 4, member = lane % 4;
        for (unsigned i = 0; i < packed; i++) {
            const unsigned near = member * packed + i, far = near + depth / 2;
            a[group][near] = unpack(own.a[0], i);
            a[group + 8][near] = unpack(own.a[1], i);
            a[group][far] = unpack(own.a[2], i);
            a[group + 8][far] = unpack(own.a[3], i);
            b[near][group] = unpack(own.b[0], i);
            b[far][group] = unpack(own.b[1], i);
        }
        for (unsigned i = 0; i < 4; i++) d[group + i / 2 * 8][member * 2 + i % 2] = own.d[i];
    }
    for (unsigned row = 0; row < 16; row++) {
        Vector sum{};
        for (unsigned k = 0; k < depth; k++) sum += a[row][k] * b[k];
        d[row] += sum;
    }
    for (unsigned lane = 0; lane < warp_lanes; lane++) {
        const auto& own = warp.operands<ProductOperands<Accumulator>>(lane);
        for (unsigned i = 0; i < 4; i++) own.d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

inline void multiply_bf16(Warp& warp, unsigned participants) {
    multiply<float, 16, 2>(warp, participants, [](uint32_t pair, unsigned i) {
        const uint32_t bits = i == 0 ? pair << 16 : pair & 0xFFFF0000u;
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    });
}

inline void multiply_s8(Warp& warp, unsigned participants) {
    multiply<int, 32, 4>(warp, participants,
                         [](uint32_t bytes, unsigned i) { return int{static_cast<int8_t>(bytes >> (8 * i))}; });
}

}  // namespace emulator
