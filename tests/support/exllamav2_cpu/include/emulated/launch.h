// Launches of kernels, run at once or recorded into a graph that is launched later.
#pragma once
#include <memory>
#include <tuple>
#include <utility>
#include <vector>
#include "block.h"

namespace emulated {

struct Launch
{
    dim3 grid, block;
    void* kernel;
    std::function<void()> thread;
    std::vector<void*> arguments;
    // ^ where `thread` reads them, in order

    void run() const { emulated::run(grid, block, thread); }
};

typedef std::vector<std::shared_ptr<Launch>> Graph;
inline Graph* recording = nullptr;

inline bool can_launch(dim3 grid, dim3 block)
{
    const auto within = [](dim3 size, unsigned x, unsigned y, unsigned z) {
        return size.x && size.y && size.z && size.x <= x && size.y <= y && size.z <= z;
    };
    return within(grid, 0x7fffffff, 65535, 65535) && within(block, 1024, 1024, 64)
        && block.x * block.y * block.z <= 1024;
}

// What `kernel<<<grid, block, shared, stream>>>` is rewritten to.
template <class... Parameters>
auto launch(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t = 0, cudaStream_t = nullptr)
{
    return [=](std::type_identity_t<Parameters>... given) {
        if (!kernel || !can_launch(grid, block))
        {
            last_error = cudaErrorInvalidConfiguration;
            return;
        }
        const auto values = std::make_shared<std::tuple<Parameters...>>(given...);
        const auto launch = std::make_shared<Launch>(Launch{
            grid, block, (void*) kernel, [=] { std::apply(kernel, *values); },
            std::apply([](auto&... each) { return std::vector<void*>{(void*) &each...}; }, *values)
        });
        if (recording) recording->push_back(launch);
        else launch->run();
    };
}

}
