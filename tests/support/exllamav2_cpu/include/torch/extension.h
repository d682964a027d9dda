// What exllamav2's sources use of torch's header of this name, which takes three times
// as long to compile.
#pragma once
#include <torch/csrc/utils/pybind.h>
#include <torch/types.h>
