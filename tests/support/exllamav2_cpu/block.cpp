// A block's threads, each on a stack of its own once it waits for others.

#include <cuda_runtime.h>
#include <array>
#include <stdexcept>

// Goes on where `to` was left, having noted at `from` where this is left.
extern "C" void emulated_switch(void** from, void* to);
asm(R"(
.hidden emulated_switch
.globl emulated_switch
.type emulated_switch, @function
emulated_switch:
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
    ret
)");

namespace emulated {
namespace {

struct Barrier
{
    unsigned threads, arrived, opened;

    void open_if_all_are_there()
    {
        if (arrived != threads) return;
        arrived = 0;
        ++opened;
    }
};

struct Thread
{
    uint3 index;
    void* stack;
    const Barrier* awaited;
    unsigned opened;
    // ^ how often the barrier had been opened when this thread came to it
    uint64_t exchanged[2];
    unsigned exchanges;
};

const size_t stack_size = 256 * 1024;
// ^ of address space: a page is taken where one is written to

std::array<Thread, 1024> threads;
std::array<Barrier, 1024 / warpSize> warps;
Barrier whole;
unsigned count, started, current;
const std::function<void()>* kernel;
void* scheduler;
std::vector<void*> idle;

Barrier& warp() { return warps[current / warpSize]; }

void leave(Barrier& barrier)
{
    --barrier.threads;
    barrier.open_if_all_are_there();
}

// What runs on a stack: threads, one after the other, until none is left to start. One
// that waits keeps its stack.
void run_threads()
{
    for (;;)
    {
        while (started < count)
        {
            current = started++;
            threadIdx = threads[current].index;
            (*kernel)();
            leave(whole);
            leave(warp());
        }
        idle.push_back(nullptr);
        emulated_switch(&idle.back(), scheduler);
    }
}

void* new_stack()
{
    const auto top = new char[stack_size] + stack_size;
    const auto words = (void**) ((uintptr_t) top & ~15) - 8;
    words[6] = (void*) run_threads;
    return words;
}

void start_threads()
{
    if (idle.empty()) idle.push_back(new_stack());
    void* stack = idle.back();
    idle.pop_back();
    emulated_switch(&scheduler, stack);
}

bool resume(unsigned index)
{
    Thread& thread = threads[index];
    if (!thread.awaited || thread.awaited->opened == thread.opened) return false;
    thread.awaited = nullptr;
    current = index;
    threadIdx = thread.index;
    emulated_switch(&scheduler, thread.stack);
    return true;
}

void wait(Barrier& barrier)
{
    Thread& thread = threads[current];
    thread.awaited = &barrier;
    thread.opened = barrier.opened;
    ++barrier.arrived;
    barrier.open_if_all_are_there();
    emulated_switch(&thread.stack, scheduler);
}

void run_block()
{
    whole = {count, 0, 0};
    for (unsigned i = 0; i < count; i += warpSize)
        warps[i / warpSize] = {min(count - i, (unsigned) warpSize), 0, 0};
    started = 0;
    while (started < count) start_threads();
    while (whole.threads)
    {
        bool any = false;
        for (unsigned i = 0; i < count; ++i) any |= resume(i);
        if (!any) throw std::runtime_error("threads of a block wait for each other");
    }
}

}

void run(dim3 grid, dim3 block, const std::function<void()>& thread)
{
    gridDim = grid;
    blockDim = block;
    kernel = &thread;
    count = block.x * block.y * block.z;
    for (unsigned i = 0; i < count; ++i)
        threads[i] = {{i % block.x, i / block.x % block.y, i / block.x / block.y}};
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                run_block();
}

void wait_for_block() { wait(whole); }
unsigned lane() { return current % warpSize; }

// Two places by turns: a thread may come to the next exchange before another has read.
uint64_t exchange(uint64_t value, unsigned lane)
{
    const unsigned self = current;
    const unsigned place = threads[self].exchanges++ % 2;
    threads[self].exchanged[place] = value;
    wait(warp());
    return threads[self / warpSize * warpSize + lane].exchanged[place];
}

}
