// The threads of a kernel's blocks, run by one thread of the CPU: blocks one after the
// other, and a block's threads in turns, each until it waits for others or ends.
//
// Nothing here is safe for several threads of the CPU; exllamav2's extension runs its
// kernels with Python's lock held.
#pragma once
#include <string.h>
#include <functional>
#include <type_traits>
#include "vectors.h"

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
const int warpSize = 32;

namespace emulated {

// Runs `thread` once for each thread of each block.
void run(dim3 grid, dim3 block, const std::function<void()>& thread);

void wait_for_block();

// What the thread of this index in the caller's warp calls this with, at the same time.
uint64_t exchange(uint64_t value, unsigned lane);
unsigned lane();

template <class T>
T from_lane(T value, unsigned lane)
{
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = exchange(word, lane);
    memcpy(&value, &word, sizeof value);
    return value;
}

}

inline void __syncthreads() { emulated::wait_for_block(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask)
{
    return emulated::from_lane(value, emulated::lane() ^ mask);
}

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta)
{
    const unsigned lane = emulated::lane();
    return emulated::from_lane(value, lane + delta < warpSize ? lane + delta : lane);
}
