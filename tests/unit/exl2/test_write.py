"""Files laid out before their contents are there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuron.exl2 import open_model
from neuron.exl2.write import TensorPlan, TensorWriter, shard

PLANS = [
    TensorPlan("half", "F16", (3,)),
    TensorPlan("words", "I32", (2, 2)),
    TensorPlan("pairs", "I16", (2,)),
]
TENSORS: dict[str, NDArray[Any]] = {
    "half": np.array([1, 2, 3], dtype=np.float16),
    "words": np.array([[1, -2], [3, 4]], dtype=np.int32),
    "pairs": np.array([7, -8], dtype=np.int16),
}


def test_tensors_are_found_again_and_aligned_to_their_size(tmp_path: Path) -> None:
    with TensorWriter(tmp_path, "output", [PLANS]) as writer:
        for name in reversed(list(TENSORS)):
            writer.write(name, TENSORS[name])
    model = open_model(tmp_path)
    assert [spec.file.name for spec in model.specs.values()] == [
        "output.safetensors"
    ] * 3
    for name, tensor in TENSORS.items():
        assert np.array_equal(model.read(name), tensor)
        assert model.specs[name].offset % tensor.itemsize == 0


def test_a_transposed_tensor_is_written_row_by_row(tmp_path: Path) -> None:
    tensor = np.arange(6, dtype=np.int32).reshape(3, 2).T
    with TensorWriter(tmp_path, "x", [[TensorPlan("t", "I32", (2, 3))]]) as writer:
        writer.write("t", tensor)
    assert np.array_equal(open_model(tmp_path).read("t"), tensor)


def test_shards_are_numbered_and_keep_the_order(tmp_path: Path) -> None:
    shards = shard(PLANS, max_bytes=20)
    assert [[plan.name for plan in part] for part in shards] == [
        ["half"],
        ["words", "pairs"],
    ]
    with TensorWriter(tmp_path, "output", shards) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "output-00001-of-00002.safetensors",
        "output-00002-of-00002.safetensors",
    ]
    assert open_model(tmp_path).specs.keys() == TENSORS.keys()


def test_a_tensor_larger_than_a_shard_gets_one_of_its_own() -> None:
    assert [len(part) for part in shard(PLANS, max_bytes=1)] == [1, 1, 1]


def test_what_was_not_planned_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError, match="other"),
        TensorWriter(tmp_path, "a", [PLANS]) as writer,
    ):
        writer.write("other", TENSORS["half"])
    with (
        pytest.raises(ValueError, match="half: float16"),
        TensorWriter(tmp_path, "b", [PLANS]) as writer,
    ):
        writer.write("half", TENSORS["half"][:2])
    with (
        pytest.raises(ValueError, match="never written"),
        TensorWriter(tmp_path, "c", [PLANS]) as writer,
    ):
        writer.write("half", TENSORS["half"])
