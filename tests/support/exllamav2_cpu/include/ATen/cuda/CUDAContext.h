// What exllamav2's sources use of torch's header of this name, and of those it includes.
#pragma once
#include <map>
#include <vector>
#include <cuda_runtime.h>
#include <cublas_v2.h>

namespace at::cuda {
struct CUDAStream
{
    cudaStream_t stream() const { return nullptr; }
    operator cudaStream_t() const { return nullptr; }
};
inline CUDAStream getCurrentCUDAStream(int = -1) { return {}; }
inline CUDAStream getStreamFromExternal(cudaStream_t, int) { return {}; }
inline void setCurrentCUDAStream(CUDAStream) {}
inline cublasHandle_t getCurrentCUDABlasHandle() { return nullptr; }
}
