// The part of exllamav2's extension that its generator calls on the CPU, as one
// translation unit: the installed package's own sources, without a CUDA toolkit.
// What the linker finds unused, kernel launches among it, is not in the result.

#include "cpp/generator.cpp"
#include "cpp/profiling.cpp"
#include "cpp/sampling.cpp"
#include "cpp/sampling_avx2.cpp"
#include "ext_cache.cpp"
// Its graphs of CUDA kernels are only named in declarations here.
#define _graph_cuh
class Graph;
#include "ext_rope.cpp"
#include "ext_sampling.cpp"
#include "ext_stloader.cpp"

// Moves pages along `order`, on the CPU, where exllamav2 has a kernel for it: each page
// named takes the contents of the next one named, the last one those of the first.
static void rotate_pages(
    const at::Tensor& cache, const at::Tensor& order, const at::Tensor& temp)
{
    TORCH_CHECK(temp.nbytes() == cache[0].nbytes(), "temp is not one page large");
    const auto pages = order.to(torch::kLong);
    const auto indices = pages.accessor<int64_t, 1>();
    const auto first = cache[indices[0]].clone();
    for (int64_t i = 0; i + 1 < indices.size(0); ++i)
        cache[indices[i]].copy_(cache[indices[i + 1]]);
    cache[indices[indices.size(0) - 1]].copy_(first);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m)
{
    m.def("apply_rep_penalty", &apply_rep_penalty);
    m.def("sample_basic", &sample_basic);
    m.def("logit_filter_exclusive", &logit_filter_exclusive);
    m.def("fast_fill_cpu_ones_bool", &fast_fill_cpu_ones_bool);
    m.def("fast_fadd_cpu", &fast_fadd_cpu);
    m.def("fast_copy_cpu", &fast_copy_cpu);
    m.def("partial_strings_match", &partial_strings_match);
    m.def("count_match", &count_match);
    m.def("cache_rotate", &rotate_pages);
    m.def("gen_mrope_pos_ids", &gen_mrope_pos_ids);
    m.def("stloader_read", &stloader_read);
    m.def("tensor_remap", &tensor_remap);
    m.def("tensor_remap_4bit", &tensor_remap_4bit);
}
