"""The smaller kernels of exllamav2 on the CPU, against plain torch."""

from typing import Any, Final

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")
import torch
from torch.nn import functional

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

NONE: Final = torch.empty((1, 1), device="meta")
"""What the extension takes for no tensor."""
EPSILON: Final = 1e-5


@pytest.fixture
def ext() -> Any:
    cuda_stack.use_cpu_extension()
    import exllamav2_ext

    return exllamav2_ext


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()


def assert_close(found: torch.Tensor, wanted: torch.Tensor, bound: float) -> None:
    found, wanted = found.double(), wanted.double()
    assert (found - wanted).norm() <= bound * wanted.norm()


@pytest.mark.parametrize("width", [288, 2048, 5120])
def test_rms_norm(ext: Any, width: int) -> None:
    x, weight = noise(3, width), noise(width, seed=1)
    found = torch.empty_like(x)
    ext.rms_norm(x, weight, found, EPSILON)
    wanted = functional.rms_norm(x.float(), (width,), weight.float(), EPSILON)
    assert_close(found, wanted, 4e-4)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [288, 2048])
def test_layer_norm(ext: Any, width: int, biased: bool) -> None:
    x, weight, bias = noise(3, width), noise(width, seed=1), noise(width, seed=2)
    found = torch.empty_like(x)
    ext.layer_norm(x, weight, bias if biased else NONE, found, EPSILON)
    wanted = functional.layer_norm(
        x.float(), (width,), weight.float(), bias.float() * biased, EPSILON
    )
    assert_close(found, wanted, 5e-4)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_head_norm(ext: Any, head_dim: int, rms: bool) -> None:
    x, weight = noise(2, 5, 3, head_dim), noise(3, head_dim, seed=1)
    found = x.clone()
    ext.head_norm_(found, weight, NONE, EPSILON, rms)
    norm = functional.rms_norm if rms else functional.layer_norm
    wanted = norm(x.float(), (head_dim,), eps=EPSILON) * weight.float()
    assert_close(found, wanted, 5e-4)


@pytest.mark.parametrize("neox", [False, True])
def test_rope(ext: Any, neox: bool) -> None:
    heads, head_dim, past = 3, 32, 5
    x, offsets = noise(2, 4, heads, head_dim), torch.tensor([7, 0], dtype=torch.int)
    angle = torch.arange(32)[:, None] / 100 ** (torch.arange(16) / 16)
    angle = angle.repeat(1, 2) if neox else angle.repeat_interleave(2, 1)
    sin, cos = angle.sin().half(), angle.cos().half()
    found = x.clone()
    tables = (sin[None, None], cos[None, None])
    ext.rope_(found, *tables, past, heads, head_dim, offsets, neox)
    if neox:
        low, high = x.chunk(2, dim=-1)
        crossed = torch.cat((-high, low), dim=-1)
    else:
        crossed = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    at = past + offsets[:, None] + torch.arange(4)
    wanted = x.float() * cos[at][:, :, None] + crossed.float() * sin[at][:, :, None]
    assert_close(found, wanted, 5e-4)


@pytest.mark.parametrize("kind", [torch.float, torch.half])
def test_softcap(ext: Any, kind: torch.dtype) -> None:
    x = (20 * noise(4, 288)).to(kind)
    found = x.clone()
    ext.softcap_(found, 30.0)
    assert_close(found, 30 * torch.tanh(x.float() / 30), 5e-4)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(5, 300, 16), (3, 16, 288), (40, 288, 128)],
    ids=["tall", "wide", "cuBLAS"],
)
@pytest.mark.parametrize("added", [False, True])
def test_products_of_adapters(
    ext: Any, rows: int, inner: int, columns: int, added: bool
) -> None:
    a, b, c = noise(rows, inner), noise(inner, columns, seed=1), noise(rows, columns)
    found = c.clone()
    ext.gemm_half_half_half(a, b, found, 1.0, float(added), False)
    assert_close(found, a.float() @ b.float() + added * c.float(), 2e-3)


WIDTHS: Final = {4: (4, 4), 6: (8, 4), 8: (8, 8)}
"""Of keys and of values, in the cache modes Q4, Q6 and Q8."""
ERRORS: Final = {4: 0.12, 8: 0.008}


def room_for(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed, and the scale of every 32."""
    packed = torch.zeros(*x.shape[:-1], x.shape[-1] * bits // 8, dtype=torch.uint8)
    return packed, torch.zeros(*x.shape[:-1], x.shape[-1] // 32, dtype=torch.half)


@pytest.mark.parametrize("mode", WIDTHS)
@pytest.mark.parametrize(("heads", "head_dim"), [(4, 128), (3, 64), (9, 32)])
def test_tokens_come_back_out_of_a_quantized_cache(
    ext: Any, mode: int, heads: int, head_dim: int
) -> None:
    """Of 300 tokens the first page is the cache's last; its second is let be."""
    key, value = (noise(3, 256, heads, head_dim, seed=n) for n in (1, 2))
    (key_room, key_scales), (value_room, value_scales) = (
        room_for(x, bits) for x, bits in zip((key, value), WIDTHS[mode], strict=True)
    )
    table = torch.tensor([[2, 0]], dtype=torch.int)
    before, after = (torch.tensor([n], dtype=torch.int) for n in (0, 300))
    ext.fp16_to_q_kv(
        key, key_room, key_scales, value, value_room, value_scales,
        1, 0, 300, 256, before, table, mode,
    )  # fmt: skip
    found = torch.zeros_like(key), torch.zeros_like(value)
    ext.q_to_fp16_kv(
        key_room, found[0], key_scales, value_room, found[1], value_scales,
        1, 0, 300, 256, after, table, mode,
    )  # fmt: skip
    for x, y, bits in zip(found, (key, value), WIDTHS[mode], strict=True):
        for page, tokens in ((2, 256), (0, 44)):
            assert_close(x[page, :tokens], y[page, :tokens], ERRORS[bits])
        assert not x[1].any()


@pytest.mark.parametrize("mode", WIDTHS)
def test_rows_come_back_out_of_a_quantized_cache(ext: Any, mode: int) -> None:
    key, value = (noise(2, 64, 2, 64, seed=n) for n in (1, 2))
    (key_room, key_scales), (value_room, value_scales) = (
        room_for(x, bits) for x, bits in zip((key, value), WIDTHS[mode], strict=True)
    )
    span = (2, 16, 32, 0, NONE, NONE, mode)
    ext.fp16_to_q_kv(key, key_room, key_scales, value, value_room, value_scales, *span)
    found = torch.zeros_like(key), torch.zeros_like(value)
    ext.q_to_fp16_kv(
        key_room, found[0], key_scales, value_room, found[1], value_scales, *span
    )
    for x, y, bits in zip(found, (key, value), WIDTHS[mode], strict=True):
        assert_close(x[:, 16:48], y[:, 16:48], ERRORS[bits])
        assert not x[:, :16].any()
        assert not x[:, 48:].any()


def test_rows_come_back_out_of_eight_bits_of_a_half(ext: Any) -> None:
    x = noise(2, 64, 2, 64)
    packed, found = x.to(torch.uint8), torch.zeros_like(x)
    ext.fp16_to_fp8(x, packed, 2, 16, 32)
    ext.fp8_to_fp16(packed, found, 2, 16, 32)
    wanted = (x.view(torch.short) & -256).view(torch.half)
    assert torch.equal(found[:, 16:48], wanted[:, 16:48])
