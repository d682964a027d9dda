// The names that exllamav2's host code takes from CUDA's header of this name, for
// compilers without CUDA. No test reaches a call of them.
#pragma once
#include <stddef.h>

typedef int cudaError_t;
typedef struct CUstream_st* cudaStream_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
static const cudaError_t cudaSuccess = 0;
static const cudaError_t cudaErrorNoDevice = 100;

static inline cudaError_t cudaSetDevice(int) { return cudaErrorNoDevice; }
static inline cudaError_t cudaDeviceSynchronize() { return cudaErrorNoDevice; }
static inline const char* cudaGetErrorString(cudaError_t) { return "no CUDA"; }
static inline cudaError_t cudaMemcpyAsync(
    void*, const void*, size_t, cudaMemcpyKind, cudaStream_t)
{
    return cudaErrorNoDevice;
}
