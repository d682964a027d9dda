"""Every product is repeated until the library has chosen how to compute it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack
from tests.support.synthetic_model import write_synthetic
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

from neuron.engines.exllamav2.steps.gemm_tuning import tune
from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import TINY, info_of, load, spec_of

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

CALLS = 201
SHAPES = {(256, 256), (256, 64), (256, 544), (544, 256), (256, 8704)}
"""Inputs and outputs of `TINY`: queries, keys, up, down and the head."""


@pytest.fixture
def calls(
    library: tuple[Any, Handles], monkeypatch: pytest.MonkeyPatch
) -> Counter[tuple[int, int, int]]:
    """(rows, inputs, outputs) of each product."""
    found: Counter[tuple[int, int, int]] = Counter()

    def multiply(a: Any, handle: int, c: Any, _force: bool) -> None:
        assert library[1].living[handle] == "q_matrix"
        assert a.shape[0] == c.shape[0]
        found[(*a.shape, c.shape[1])] += 1

    monkeypatch.setattr(library[1], "gemm_half_q_half", multiply, raising=False)
    return found


@pytest.fixture
def model(tmp_path: Path, library: tuple[Any, Handles]) -> Any:
    write_synthetic(tmp_path / "tiny", TINY)
    return load(library[0], spec_of(info_of(tmp_path / "tiny"))).model


def test_each_shape_and_number_of_rows(
    model: Any, library: tuple[Any, Handles], calls: Counter[Any]
) -> None:
    assert tune(library[0].exllamav2, model) == len(SHAPES)
    assert calls == {(rows, *s): CALLS for s in SHAPES for rows in (1, 2, 3, 4)}


@pytest.mark.parametrize("kind", ["gptq", "fp16"])
def test_others_are_not_timed(
    tmp_path: Path, library: tuple[Any, Handles], calls: Counter[Any], kind: str
) -> None:
    info = hollow.write_llama(tmp_path / "m", kind=kind)
    hollow.with_the_bundled_tokenizer(info.path)
    model = load(library[0], spec_of(info)).model
    assert tune(library[0].exllamav2, model) == 0
    assert not calls


def test_parts_of_a_matrix_that_was_split(
    model: Any, library: tuple[Any, Handles], calls: Counter[Any]
) -> None:
    linear = model.modules_dict["model.layers.0.mlp.up_proj"]
    whole, handle = linear.q_tensors, linear.q_handle
    parts = whole["q_weight"].split([416, 128], 1)
    linear.q_tensors = [whole | {"q_weight": part} for part in parts]
    linear.q_handle = [handle, handle]
    assert tune(library[0].exllamav2, model) == len(SHAPES) + 2
    assert calls[4, 256, 416] == calls[1, 256, 128] == CALLS
