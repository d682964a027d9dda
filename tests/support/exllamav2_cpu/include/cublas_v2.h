#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

typedef struct cublasContext* cublasHandle_t;
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };

inline void cublasSetStream(cublasHandle_t, cudaStream_t) {}

// c = alpha a b + beta c, of matrices by columns; b is not transposed.
void cublasHgemm(
    cublasHandle_t, cublasOperation_t, cublasOperation_t, int rows, int columns, int inner,
    const half* alpha, const half* a, int a_stride, const half* b, int b_stride,
    const half* beta, half* c, int c_stride);
