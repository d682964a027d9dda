// exllamav2's host code, as one translation unit: the installed package's own sources.

#include "cpp/generator.cpp"
#include "cpp/profiling.cpp"
#include "cpp/quantize_func.cpp"
#include "cpp/sampling.cpp"
#include "cpp/sampling_avx2.cpp"
#include "ext_cache.cpp"
#include "ext_element.cpp"
#include "ext_gemm.cpp"
#include "ext_hadamard.cpp"
#include "ext_norm.cpp"
#include "ext_qattn.cpp"
#include "ext_qmatrix.cpp"
#include "ext_qmlp.cpp"
#include "ext_quant.cpp"
#include "ext_rope.cpp"
#include "ext_sampling.cpp"
#include "ext_stloader.cpp"
#include "ext_tp.cpp"

#include "ext_bindings.cpp"

void cublasHgemm(
    cublasHandle_t, cublasOperation_t of_a, cublasOperation_t, int rows, int columns,
    int inner, const half* alpha, const half* a, int a_stride, const half* b, int b_stride,
    const half* beta, half* c, int c_stride)
{
    const auto matrix = [](const half* data, int columns, int rows, int stride) {
        return torch::from_blob((void*) data, {columns, rows}, {stride, 1}, torch::kHalf);
    };
    auto result = matrix(c, columns, rows, c_stride);
    const auto left = of_a == CUBLAS_OP_T ? matrix(a, rows, inner, a_stride).t()
                                          : matrix(a, inner, rows, a_stride);
    auto product = at::mm(
        matrix(b, columns, inner, b_stride).to(torch::kFloat), left.to(torch::kFloat));
    product.mul_(__half2float(*alpha));
    // As cuBLAS does: a result that counts for nothing may be anything, NaN included.
    if (__half2float(*beta)) product.add_(result.to(torch::kFloat), __half2float(*beta));
    result.copy_(product);
}
