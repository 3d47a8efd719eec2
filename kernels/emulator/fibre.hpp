// Fibres: a stack each, and the switch between two of them. They know nothing of CUDA.
//
// On x86-64 the switch is a dozen instructions; `swapcontext`, used elsewhere, makes a system call each time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// A stack with an inaccessible page below it, so that an overflow crashes instead of damaging a neighbour.
struct Stack {
    static constexpr size_t bytes = 128 << 10;
    static constexpr size_t guard = 64 << 10;  // At least a page on every architecture.

    // `number` staggers the tops: were all at the same offset in a page, they would fight for the same cache sets.
    explicit Stack(unsigned number) {
        void* mapped = mmap(nullptr, guard + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        base = static_cast<char*>(mapped);
        mprotect(base, guard, PROT_NONE);
        top = base + guard + bytes - number % 16 * 256;
    }
    Stack(Stack&& other) noexcept : base(other.base), top(other.top) { other.base = nullptr; }
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;
    ~Stack() {
        if (base) munmap(base, guard + bytes);
    }

    char* base;
    char* top;
};

#if defined(__x86_64__)

struct Context {
    void* stack_pointer = nullptr;
};

// Saves the registers that a call must preserve on the running stack, then goes on with those of the other. It jumps
// instead of returning: the processor would predict a return to where the last call came from, always wrongly.
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx
.size emulator_switch, .-emulator_switch
)");

// Makes the context start at `entry`, which must never return.
inline void prepare(Context& context, const Stack& stack, void (*entry)()) {
    auto** slot = reinterpret_cast<void**>(stack.top);
    *--slot = nullptr;  // Where `entry` would return to; it also sets the alignment that a called function expects.
    *--slot = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; saved++) *--slot = nullptr;
    context.stack_pointer = slot;
}

inline void switch_context(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }

#else

struct Context {
    ucontext_t state;
};

inline void prepare(Context& context, const Stack& stack, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack.base + Stack::guard;
    context.state.uc_stack.ss_size = static_cast<size_t>(stack.top - stack.base) - Stack::guard;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

#endif

}  // namespace emulator
