"""The kernels compiled for real GPUs, on a host without one."""

import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neuron.engines.exllamav2.attention import kernels, launch
from neuron.engines.exllamav2.attention.problem import Mask

SHARED_MEMORY: Final = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Bytes that one program may use, by compute capability (CUDA's programming guide)."""

_POINTERS: Final = {
    "lengths": "*i32", "table": "*i32", "sums": "*fp32", "stats": "*fp32"
}  # fmt: skip
_HALVES: Final = {
    "query", "keys", "values", "key_cache", "value_cache", "out"
}  # fmt: skip
_NUMBERS: Final = {"scale": "fp32", "softcap": "fp32"}

PLAIN: Final = Mask(0.1, causal=True)
GEMMA_2: Final = Mask(0.1, causal=True, left=4096, softcap=50.0)

VARIANTS: Final = {
    "llama-decode": (32, 8, 128, 1, PLAIN),
    "qwen-drafts": (28, 4, 128, 16, PLAIN),
    "head-dim-80": (32, 32, 80, 1, PLAIN),
    "head-dim-32": (8, 8, 32, 1, PLAIN),
    "gemma-2-decode": (16, 8, 256, 1, GEMMA_2),
    "gemma-2-prompt": (16, 8, 256, 2048, GEMMA_2),
    "gemma-2-27b-prompt": (32, 16, 128, 2048, GEMMA_2),
}
"""heads, kv_heads, head_dim, queries, mask"""


def _compile(
    function: Any, constants: dict[str, int], target: int, half: str = "*fp16"
) -> Any:
    options = {
        name: constants.pop(name)
        for name in ("num_warps", "num_stages")
        if name in constants
    }
    names = [parameter.name for parameter in function.params]
    assert set(constants) <= set(names)
    known = _POINTERS | _NUMBERS | dict.fromkeys(_HALVES, half)
    signature = {
        name: "constexpr" if name in constants else known.get(name, "i32")
        for name in names
    }
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name in _HALVES | {"sums", "stats"}
        or (name.endswith("_stride") and name != "table_stride")
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(function, signature, values, aligned)
    return triton.compile(source, GPUTarget("cuda", target, 32), options)


def _attend(variant: str, target: int, half: str = "*fp16") -> Any:
    heads, kv_heads, head_dim, queries, mask = VARIANTS[variant]
    tiles = launch.tiles_for(queries * heads // kv_heads, head_dim, 256)
    constants = launch.heads_of(heads, kv_heads, head_dim)
    constants |= launch.variant_of(256, mask, tiles)
    return _compile(kernels.attend, constants, target, half)


@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_uses_tensor_cores_and_fits(variant: str, target: int) -> None:
    compiled = _attend(variant, target)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_MEMORY[target]
    assert "mma.sync" in compiled.asm["ptx"] or "wgmma" in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]  # keys are fetched ahead, 16 bytes at once


def test_prompts_use_a_hopper_s_own_instructions() -> None:
    assert "wgmma" in _attend("gemma-2-prompt", 90).asm["ptx"]


@pytest.mark.parametrize("target", SHARED_MEMORY)
def test_bfloat16_is_compiled_too(target: int) -> None:
    compiled = _attend("llama-decode", target, "*bf16")
    assert ".bf16.bf16." in compiled.asm["ptx"]


@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("variant", ["llama-decode", "gemma-2-decode"])
def test_registers_do_not_spill_in_decoding(
    variant: str, target: int, tmp_path: Path
) -> None:
    cubin = tmp_path / "attend.cubin"
    cubin.write_bytes(_attend(variant, target).asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    shown = subprocess.check_output([tool, "-res-usage", cubin], text=True)
    assert " STACK:0 " in shown


@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize(("rows", "head_dim"), [(4, 128), (64, 256)])
def test_a_cache_without_pages_fits(rows: int, head_dim: int, target: int) -> None:
    tiles = launch.tiles_for(rows, head_dim, None)
    constants = launch.heads_of(32, 8, head_dim) | launch.variant_of(None, PLAIN, tiles)
    compiled = _compile(kernels.attend, constants, target)
    assert compiled.metadata.shared <= SHARED_MEMORY[target]


@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("head_dim", [80, 128, 256])
def test_splits_are_merged(head_dim: int, target: int) -> None:
    tiles = launch.tiles_for(4, head_dim, 256)
    constants = launch.heads_of(32, 8, head_dim) | launch.merging(tiles)
    compiled = _compile(kernels.merge_splits, constants, target)
    assert compiled.metadata.shared <= SHARED_MEMORY[target]


@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("page", [256, None])
def test_a_row_is_appended_in_16_bytes_at_once(page: int | None, target: int) -> None:
    compiled = _compile(kernels.append_rows, launch.appending(1024, page), target)
    assert "ld.global.v4.b32" in compiled.asm["ptx"]
    assert "st.global.v4.b32" in compiled.asm["ptx"]
