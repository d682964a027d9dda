// CUDA graphs of kernels alone: what is launched while a stream is captured, to be
// launched again with other arguments.
#pragma once
#include "launch.h"

typedef emulated::Graph* cudaGraph_t;
typedef emulated::Graph* cudaGraphExec_t;
typedef emulated::Launch* cudaGraphNode_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaGraphNodeType { cudaGraphNodeTypeKernel = 0 };

struct cudaKernelNodeParams
{
    void* func;
    dim3 gridDim, blockDim;
    unsigned sharedMemBytes;
    void** kernelParams;
};

inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    emulated::recording = new emulated::Graph;
    return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph)
{
    *graph = std::exchange(emulated::recording, nullptr);
    return cudaSuccess;
}
// Shares the graph's nodes: their arguments are changed in place.
inline cudaError_t cudaGraphInstantiate(
    cudaGraphExec_t* executable, cudaGraph_t graph, void*, void*, size_t)
{
    *executable = new emulated::Graph(*graph);
    return cudaSuccess;
}
inline cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count)
{
    *count = graph->size();
    if (nodes)
        for (const auto& launch : *graph) *nodes++ = launch.get();
    return cudaSuccess;
}
inline cudaError_t cudaGraphNodeGetType(cudaGraphNode_t, cudaGraphNodeType* type)
{
    *type = cudaGraphNodeTypeKernel;
    return cudaSuccess;
}
inline cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* params)
{
    *params = {node->kernel, node->grid, node->block, 0, node->arguments.data()};
    return cudaSuccess;
}
inline cudaError_t cudaGraphExecKernelNodeSetParams(
    cudaGraphExec_t, cudaGraphNode_t, const cudaKernelNodeParams*)
{
    return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t)
{
    for (const auto& launch : *executable) launch->run();
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }
