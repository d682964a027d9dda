"""exllamav2's kernels on the CPU against our own reading of what they compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pytest

from neuron.exl2.bitstream import WIDTHS
from neuron.exl2.exl2_linear import Exl2Linear
from neuron.exl2.gptq_linear import GptqLinear, default_groups
from tests.support import cuda_stack
from tests.unit.exllamav2.gemm.matrices import Plan, random_layer

cuda_stack.require("torch", "exllamav2")
import torch

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

PLANS: Final[dict[str, Plan]] = {
    **{f"{bits} bits": ((bits, 128), (bits, 160)) for bits in WIDTHS},
    "every width": ((8, 32), (6, 32), (5, 64), (4, 32), (3, 64), (2, 32)),
    "short groups": ((6, 32), (5, 32), (4, 32), (4, 32), (4, 32)),
}
COLUMNS: Final = 288


@pytest.fixture(autouse=True)
def _extension() -> None:
    cuda_stack.use_cpu_extension()


@contextmanager
def q_matrix(tensors: dict[str, Any]) -> Iterator[int]:
    """The library's matrix over tensors as a file holds them."""
    from exllamav2.ext import ext_c, make_q_matrix

    held = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    if "q_invperm" in held:
        held["q_perm"] = torch.argsort(held["q_invperm"]).int()
    rows = 512
    unpacked = torch.empty(rows * COLUMNS, dtype=torch.half)
    handle = make_q_matrix(held, unpacked, max_dq_rows=rows)
    try:
        yield handle
    finally:
        ext_c.free_q_matrix(handle)


def assert_reconstructs(layer: Exl2Linear | GptqLinear) -> None:
    import exllamav2_ext

    wanted = torch.from_numpy(layer.dequantize())
    with q_matrix(tensors_of(layer)) as handle:
        found = torch.empty_like(wanted)
        exllamav2_ext.reconstruct(handle, found)
    assert torch.equal(found.view(torch.short), wanted.view(torch.short))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_exl2_is_dequantized_as_by_our_codec(plan: Plan) -> None:
    assert_reconstructs(random_layer(plan, COLUMNS))


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "act-order"])
def test_gptq_is_dequantized_as_by_our_codec(ordered: bool) -> None:
    assert_reconstructs(random_gptq(ordered))


def random_gptq(ordered: bool, *, bias: bool = False) -> GptqLinear:
    rng = np.random.default_rng(7)
    rows, groups = 256, 4
    group_of_row = default_groups(rows, groups)
    if not ordered:
        group_of_row = rng.permutation(group_of_row)
    return GptqLinear(
        rng.integers(1 << 32, size=(rows // 8, COLUMNS), dtype=np.uint32),
        rng.integers(1 << 32, size=(groups, COLUMNS // 8), dtype=np.uint32),
        rng.uniform(0.001, 0.01, (groups, COLUMNS)).astype(np.float16),
        group_of_row,
        bias=rng.standard_normal(COLUMNS).astype(np.float16) if bias else None,
    )


def tensors_of(layer: Exl2Linear | GptqLinear) -> dict[str, Any]:
    """As a file holds them."""
    if isinstance(layer, Exl2Linear):
        return layer.tensors()
    tensors = {
        "qweight": layer.qweight.view(np.int32),
        "qzeros": layer.qzeros.view(np.int32),
        "scales": layer.scales,
    }
    if not np.array_equal(layer.group_of_row, np.sort(layer.group_of_row)):
        tensors["g_idx"] = layer.group_of_row
    if layer.bias is not None:
        tensors["bias"] = layer.bias
    return tensors


@pytest.mark.parametrize("bias", [False, True], ids=["", "with bias"])
@pytest.mark.parametrize("kind", [*PLANS, "GPTQ", "GPTQ, act-order"])
def test_products_are_within_the_rounding_of_half_precision(
    kind: str, bias: bool
) -> None:
    """By the product kernels up to 32 rows (four at a time), unpacked beyond."""
    import exllamav2_ext

    layer = (
        random_layer(PLANS[kind], COLUMNS, bias=bias)
        if kind in PLANS
        else random_gptq(kind == "GPTQ", bias=bias)
    )
    weight = torch.from_numpy(layer.dequantize()).double()
    with q_matrix(tensors_of(layer)) as handle:
        for rows in (1, 2, 3, 4, 5, 8, 31, 32, 33, 40):
            generator = torch.Generator().manual_seed(rows)
            x = torch.randn((rows, len(weight)), generator=generator).half()
            found = torch.full((rows, COLUMNS), torch.nan, dtype=torch.half)
            exllamav2_ext.gemm_half_q_half(x, handle, found, False)
            wanted = x.double() @ weight
            if layer.bias is not None:
                wanted += torch.from_numpy(layer.bias).double()
            bound = 2e-3 if rows <= 32 else 5e-4
            assert (found.double() - wanted).norm() < bound * wanted.norm()
