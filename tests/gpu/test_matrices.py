"""Weights on the GPU are those of our own reader, bit for bit, and so are products."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuron.engines.base import Engine
from neuron.exl2 import TensorDirectory, open_model
from neuron.exl2.exl2_linear import Exl2Linear
from tests.gpu.loads import planned
from tests.unit.exllamav2.gemm.matrices import Plan, random_layer

WIDTHS = [2, 3, 4, 5, 6, 8]
MIXED: list[Plan] = [
    ((8, 32), (6, 64), (5, 96), (4, 128), (3, 128), (2, 64)),
    ((6, 128), (4, 352)),
    ((5, 32), (3, 32)),
]
PRODUCTS: list[tuple[Plan, int]] = [
    *((((bits, 256),), 16) for bits in WIDTHS),
    *((MIXED[0], rows) for rows in (1, 5, 17, 33, 64)),
]
"""Few, because each takes seconds to compile."""
_LIBRARY_ERROR = 0.02
"""Relative: its sums are float16."""
_OUR_ERROR = 1e-3
"""Relative: sums are float32, and the result is rounded to float16."""


@pytest.fixture
def load(engine_class: type[Engine]) -> Iterator[Callable[[Path], Any]]:
    """`load(folder)` is the library's model, with the library beside it."""
    from neuron.engines.exllamav2.backend import load_backend
    from neuron.engines.exllamav2.loading import load as loading

    models = []

    def run(folder: Path) -> Any:
        _, spec = planned(engine_class, folder, slots=1, cache_tokens=512)
        loading.prepare_devices(spec)
        backend = load_backend()
        made = loading.load_model(backend, spec, lambda *_: None, lambda: False)
        models.append(made)
        return backend.exllamav2, made.model

    yield run
    for made in models:
        loading.free(made)


def _check_bits(library: Any, handle: int, dequantized: NDArray[np.float16]) -> None:
    import torch

    wanted = torch.from_numpy(dequantized)
    weight = torch.empty(wanted.shape, dtype=torch.float16, device="cuda")
    library.ext.ext_c.reconstruct(handle, weight)
    assert torch.equal(weight.cpu().view(torch.int16), wanted.view(torch.int16))


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_model_s_weights(
    load: Callable[[Path], Any], tiny: Callable[..., Path], bits: int
) -> None:
    folder = tiny(bits=bits, head_bits=bits)
    _check_files(load(folder), folder)


def test_the_bundled_model_s_weights(
    load: Callable[[Path], Any], bundled: Path
) -> None:
    _check_files(load(bundled), bundled)


def _check_files(loaded: Any, folder: Path) -> None:
    from neuron.engines.exllamav2.steps.gemm_tuning import quantized_linears

    library, model = loaded
    source, seen = open_model(folder), 0
    for linear in quantized_linears(library, model):
        _check_bits(library, linear.q_handle, _as_held(source, linear.key))
        seen += 1
    assert seen == sum(name.endswith(".q_weight") for name in source.specs)


def _as_held(source: TensorDirectory, key: str) -> NDArray[np.float16]:
    """Rows of an MLP's last matrix are in packed order on the device, and so are the
    columns of those whose results it takes."""
    weight = source.linear(key).dequantize()
    block, _, name = key.rpartition(".")
    if name in ("gate_proj", "up_proj", "down_proj"):
        order = np.argsort(source.read(f"{block}.down_proj.q_invperm"))
        weight = weight[order] if name == "down_proj" else weight[:, order]
    return np.ascontiguousarray(weight)


@pytest.fixture
def make() -> Iterator[Callable[[Exl2Linear], Any]]:
    """`make(layer)` is (library, its handle of the layer, the layer's tensors)."""
    import torch

    from neuron.engines.exllamav2.backend import load_backend

    library = load_backend().exllamav2
    handles = []

    def run(layer: Exl2Linear) -> Any:
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).cuda()
            for name, array in layer.tensors().items()
        }
        tensors["q_perm"] = torch.argsort(tensors["q_invperm"]).to(torch.int)
        room = torch.empty(layer.in_features * layer.columns, dtype=torch.half)
        scratch = room.cuda()
        handle = library.ext.make_q_matrix(
            tensors, scratch, max_dq_rows=layer.in_features
        )
        handles.append((handle, scratch))
        return library, handle, tensors

    yield run
    for handle, _ in handles:
        library.ext.ext_c.free_q_matrix(handle)


@pytest.mark.parametrize("plan", MIXED)
def test_groups_of_several_widths(make: Callable[..., Any], plan: Plan) -> None:
    layer = random_layer(plan, 96)
    library, handle, _ = make(layer)
    _check_bits(library, handle, layer.dequantize())


@pytest.mark.parametrize(("plan", "rows"), PRODUCTS, ids=str)
def test_products(make: Callable[..., Any], plan: Plan, rows: int) -> None:
    """The library's kernel and ours, against the product in float64."""
    import torch

    from neuron.engines.exllamav2.gemm.matrix import Exl2Matrix

    layer = random_layer(plan, 160)
    library, handle, tensors = make(layer)
    random = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, layer.in_features), generator=random).half()
    wanted = x.double() @ torch.from_numpy(layer.dequantize()).double()
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    matrix = Exl2Matrix.of(tensors)
    ours = matrix.multiply(x.cuda(), processors)
    assert torch.equal(ours, matrix.multiply(x.cuda(), processors))
    theirs = torch.empty((rows, layer.columns), dtype=torch.half, device="cuda")
    library.ext.ext_c.gemm_half_q_half(x.cuda(), handle, theirs, False)
    for got, bound in ((ours, _OUR_ERROR), (theirs, _LIBRARY_ERROR)):
        error = (got.cpu().double() - wanted).norm() / wanted.norm()
        assert error <= bound
