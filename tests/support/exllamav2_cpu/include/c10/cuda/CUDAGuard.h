#pragma once
#include <c10/core/Device.h>

namespace at::cuda {
struct OptionalCUDAGuard
{
    explicit OptionalCUDAGuard(std::optional<c10::Device>) {}
};
}
