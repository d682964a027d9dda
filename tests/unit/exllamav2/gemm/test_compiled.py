"""The kernels compiled for real GPUs, on a host without one."""

from typing import Final

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neuron.engines.exllamav2.gemm import kernels
from neuron.engines.exllamav2.gemm.matrix import Exl2Matrix
from tests.support.triton_variants import noted
from tests.unit.exllamav2.gemm.matrices import device_tensors, random_layer

pytestmark = pytest.mark.cuda_stack

SHARED_MEMORY: Final = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Bytes that one program may use, by compute capability (CUDA's programming guide)."""
TYPES: Final = {
    "a": "*fp16", "q_weight": "*i32", "q_scale": "*i32", "scale_max": "*fp16",
    "group_map": "*i16", "out": "*fp32",
}  # fmt: skip
FOUR_BITS, SIX_BITS, FIVE_AND_FOUR = 0x08, 0x20, 0x18


@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize(
    ("widths", "block_m", "warps"),
    [(FOUR_BITS, 16, 4), (SIX_BITS, 64, 8), (FIVE_AND_FOUR, 32, 4)],
)
def test_uses_tensor_cores_and_fits(
    target: int, widths: int, block_m: int, warps: int
) -> None:
    constants = {
        "WIDTHS": widths, "UNITS": 16, "BLOCK_M": block_m, "BLOCK_N": 64
    }  # fmt: skip
    names = [parameter.name for parameter in kernels.multiply.params]
    signature = {
        name: "constexpr" if name in constants else TYPES.get(name, "i32")
        for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernels.multiply, signature, values)
    options = {"num_warps": warps, "num_stages": 1}
    compiled = triton.compile(source, GPUTarget("cuda", target, 32), options)
    assert "mma" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SHARED_MEMORY[target]


def test_rows_and_parts_are_compiled_for_by_tiles() -> None:
    """5 to 16 rows are one tile, cut for any number of multiprocessors."""
    matrix = Exl2Matrix.of(device_tensors(random_layer(((4, 128),), 64)))
    with noted() as variants:
        for rows in (5, 8, 16):
            for multiprocessors in (1, 8, 132):
                x = torch.zeros((rows, 128), dtype=torch.float16)
                matrix.multiply(x, multiprocessors)
    assert len(variants) == 2  # the product, and the sum of its parts
