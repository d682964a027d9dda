"""The plan's arithmetic against the library's own, module by module."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from neuron.engines.exllamav2.memory.cache_modes import CACHE_MODES
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.limits import Limits, limits_of
from neuron.engines.exllamav2.memory.model import CacheShape, ModelMemory
from neuron.engines.exllamav2.memory.scratch import (
    fixed_scratch,
    max_dq_size,
    rope_bytes,
)
from neuron.engines.exllamav2.memory.tensor_parallel import split_scratch
from neuron.models.bundled import bundled_root
from neuron.models.inspect import inspect_model
from tests.support import cuda_stack
from tests.support.synthetic_model import ModelShape
from tests.unit.exllamav2 import hollow
from tests.unit.exllamav2.hollow import SMALL

cuda_stack.require("torch", "exllamav2")

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

SHAPES: Final[dict[str, ModelShape]] = {
    "many queries": SMALL,
    "wide head": replace(SMALL, head_dim=64),
    "odd rows": replace(SMALL, hidden=288, intermediate=864, vocab=999),
    "narrow MLP": replace(SMALL, intermediate=128),
}


@pytest.fixture(scope="module")
def library() -> Any:
    cuda_stack.use_cpu_extension()
    import exllamav2

    return exllamav2


def built(library: Any, model: Description, limits: Limits, dq: int) -> Any:
    """The library's model, its tensors not loaded."""
    config = library.ExLlamaV2Config(str(model.info.path))
    config.max_seq_len = model.info.context
    config.max_input_len = limits.max_input
    config.max_batch_size = 1
    config.max_dq_size = dq
    return library.ExLlamaV2(config)


def described(folder: Path, name: str, kind: str) -> Description:
    if name == "bundled":
        return Description.of(
            inspect_model(bundled_root() / "tinystories-15m", "bundled")
        )
    return Description.of(hollow.write_llama(folder / "m", SHAPES[name], kind))


@pytest.mark.parametrize("slots", [4, 64])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bundled", "exl2"),
        *((name, "exl2") for name in SHAPES),
        *((name, "gptq") for name in SHAPES if name != "odd rows"),
    ],
)
def test_scratch_is_what_the_library_asks_for(
    tmp_path: Path, library: Any, name: str, kind: str, slots: int
) -> None:
    model = described(tmp_path, name, kind)
    limits = limits_of(model.info.context, slots)
    dq = max_dq_size(model.modules, limits)
    theirs = built(library, model, limits, dq)
    ours = [m for m in model.modules if m.kind not in ("embedding", "norm")]
    modules = [m for m in theirs.modules if m.name not in ("Embedding", "RMSNorm")]
    assert len(ours) == len(modules)
    for cost, module in zip(ours, modules, strict=True):
        if cost.quantized:
            expected = module.scratch_space_fixed()
            got = fixed_scratch(cost, model.sizes, limits.max_input, dq)
            assert got == expected, (cost.kind, cost.layer)
        assert sum(c.numel for c in cost.linears) == module.numel()


@pytest.mark.parametrize("kind", ["exl2", "gptq", "fp16"])
def test_weights_are_what_the_library_measures(
    tmp_path: Path, library: Any, kind: str
) -> None:
    model = described(tmp_path, "many queries", kind)
    limits = limits_of(model.info.context, 4)
    theirs = built(library, model, limits, 1 << 29)
    ours = sum(m.arena_bytes + m.loose_bytes for m in model.modules)
    footprint = sum(m.weight_footprint() for m in theirs.modules)
    linears = sum(len(m.linears) for m in model.modules)
    # Alignment; and per row 4 bytes of order on disk become 4 of order and 4 of map.
    rows = sum(c.rows for m in model.modules for c in m.linears if c.quantized)
    assert abs(ours - footprint) <= linears * 8 * 512 + 4 * rows


@pytest.mark.parametrize(("slots", "head_too"), [(4, False), (64, True)])
def test_large_matrices_are_dequantized_where_that_pays(
    tmp_path: Path, library: Any, slots: int, head_too: bool
) -> None:
    """The kernel's own condition, of `gemm_half_q_half_cuda`."""
    model = described(tmp_path, "odd rows", "exl2")
    limits = limits_of(model.info.context, slots)
    dq = max_dq_size(model.modules, limits)
    for module in model.modules:
        for linear in module.linears:
            if not linear.quantized:
                continue
            row_step = dq // linear.columns // 128 * 128
            dequantized = linear.rows <= row_step
            assert dequantized == (module.kind != "head" or head_too), linear.key


def test_rope_tables(tmp_path: Path, library: Any) -> None:
    from exllamav2 import device

    model = described(tmp_path, "many queries", "exl2")
    theirs = built(library, model, limits_of(model.info.context, 4), 1 << 29)
    device.global_streams.setdefault(-1, None)
    context = device.ExLlamaV2DeviceContext(theirs, -1, 0)
    context.prepare_sincos()
    tables = [*context.sin, *context.cos]
    assert sum(t.nbytes for t in tables) == rope_bytes(model.sizes, model.info.context)
    del device.global_streams[-1]


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("slots", [4, 64])
def test_split_layers_have_the_scratch_that_the_library_asks_for(
    tmp_path: Path, library: Any, slots: int, devices: int
) -> None:
    model = Description.of(hollow.write_llama(tmp_path / "m", hollow.BIG))
    limits = limits_of(model.info.context, slots)
    cache = CacheShape(CACHE_MODES["fp16"], 1024)
    memory = ModelMemory(model, limits, model.info.context, cache)
    theirs = built(library, model, limits, memory.dq)
    theirs.tp_context = library.tensor_p.TPContext(theirs, [64.0] * devices)
    asked = [module.scratch_space_tp() for module in theirs.modules[1:]]
    assert max(map(max, asked)) == split_scratch(memory, devices)
