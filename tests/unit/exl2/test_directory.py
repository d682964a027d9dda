"""Folders of tensor files: shards, indexes, pickles, dtypes."""

import json
from pathlib import Path

import numpy as np
import pytest

from neuron.exl2 import DenseLinear, FormatError, open_model
from neuron.exl2.directory import INDEX_NAME
from neuron.exl2.json_file import MAX_JSON_BYTES
from tests.unit.exl2.support import entry, file_bytes, memory_peak, save

A = np.arange(6, dtype=np.float16).reshape(2, 3)
B = np.arange(4, dtype=np.int32)


def index(folder: Path, weight_map: object) -> None:
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


def test_shards_without_an_index_are_read_together(tmp_path: Path) -> None:
    save(tmp_path / "output-00001-of-00002.safetensors", {"a": A})
    save(tmp_path / "output-00002-of-00002.safetensors", {"b": B})
    model = open_model(tmp_path)
    assert sorted(model.specs) == ["a", "b"]
    assert np.array_equal(model.read("a"), A)
    assert np.array_equal(model.read("b"), B)


def test_one_file_can_be_opened(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    save(tmp_path / "two.safetensors", {"b": B})
    assert list(open_model(tmp_path / "one.safetensors").specs) == ["a"]


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    save(tmp_path / "two.safetensors", {"a": A, "b": B})
    with pytest.raises(FormatError, match=r"two.*tensor 'a': is also in one") as caught:
        open_model(tmp_path)
    assert caught.value.tensor == "a"


def test_an_index_chooses_among_the_files(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    save(tmp_path / "two.safetensors", {"b": B})
    save(tmp_path / "consolidated.safetensors", {"a": A * 2, "b": B})
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    model = open_model(tmp_path)
    assert model.specs["a"].file.name == "one.safetensors"
    assert sorted(model.specs) == ["a", "b"]


def test_an_index_chooses_among_copies_of_a_tensor(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    save(tmp_path / "two.safetensors", {"a": A * 2, "b": B})
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert np.array_equal(open_model(tmp_path).read("a"), A)


def test_an_index_left_from_the_unquantized_model_is_passed_over(
    tmp_path: Path,
) -> None:
    save(tmp_path / "output.safetensors", {"a": A})
    index(tmp_path, {"z": "model-00001-of-00001.safetensors"})
    assert list(open_model(tmp_path).specs) == ["a"]


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"a": "one.safetensors", "b": "lost.safetensors"}, "lost.*missing"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "'b': is in the index"),
        ({"a": "../one.safetensors"}, "not a plain file name"),
        ({"a": 7}, "not a plain file name"),
        ([], "weight_map is not a JSON object"),
    ],
)
def test_an_index_that_lies_is_refused(
    tmp_path: Path, weight_map: object, reason: str
) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    index(tmp_path, weight_map)
    with pytest.raises(FormatError, match=reason):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_an_index_that_is_not_json_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    (tmp_path / INDEX_NAME).write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        open_model(tmp_path)


def test_a_huge_index_is_refused_unread(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors", {"a": A})
    with (tmp_path / INDEX_NAME).open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)
    with memory_peak() as peak, pytest.raises(FormatError, match="are over"):
        open_model(tmp_path)
    assert peak.bytes < 1 << 20


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin: is a pickle"):
        open_model(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no \.safetensors file"):
        open_model(tmp_path)
    with pytest.raises(FormatError, match="is no folder"):
        open_model(tmp_path / "absent")


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC040, 0x0001, 0x7F7F], dtype=np.uint16)
    save(tmp_path / "x.safetensors", {}, {"a": bits})
    wide = open_model(tmp_path).read("a")
    assert wide.dtype == np.float32
    assert wide.tolist() == [1.0, -3.0, 2.0**-133, (2 - 2.0**-7) * 2.0**127]


def test_odd_offsets_and_empty_tensors_are_read(tmp_path: Path) -> None:
    header = {
        "byte": entry("I8", [1], 0, 1),
        "empty": entry("F32", [0, 3], 1, 1),
        "half": entry("F16", [2], 1, 5),
    }
    content = file_bytes(header, b"\x07\x00\x3c\x00\x40")
    (tmp_path / "x.safetensors").write_bytes(content)
    model = open_model(tmp_path)
    assert model.read("byte").tolist() == [7]
    assert model.read("half").tolist() == [1.0, 2.0]
    assert model.read("empty").shape == (0, 3)


def test_a_dtype_that_numpy_lacks_is_listed_but_not_read(tmp_path: Path) -> None:
    header = {"a": entry("F8_E4M3", [4], 0, 4)}
    (tmp_path / "x.safetensors").write_bytes(file_bytes(header, bytes(4)))
    model = open_model(tmp_path)
    assert model.specs["a"].dtype == "F8_E4M3"
    with pytest.raises(FormatError, match="F8_E4M3 cannot be read"):
        model.read("a")


def test_what_is_read_cannot_be_written_to(tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", {"a": A})
    with pytest.raises(ValueError, match="read-only"):
        open_model(tmp_path).read("a")[0, 0] = 1


def test_a_file_cut_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", {"a": A, "b": B})
    model = open_model(tmp_path)
    file = tmp_path / "x.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(FormatError, match="became shorter"):
        model.read("b")


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", {"a": A})
    model = open_model(tmp_path)
    with pytest.raises(FormatError, match="tensor 'z': is missing"):
        model.read("z")
    with pytest.raises(FormatError, match="'z': has no q_weight, qweight or weight"):
        model.linear("z")


def test_dense_layers_are_transposed(tmp_path: Path) -> None:
    bias = np.array([1, 2], dtype=np.float32)
    save(tmp_path / "x.safetensors", {"l.weight": A, "l.bias": bias})
    linear = open_model(tmp_path).linear("l", 2)
    assert isinstance(linear, DenseLinear)
    assert (linear.in_features, linear.out_features) == (3, 2)
    assert np.array_equal(linear.dequantize(), A.T)
    assert linear.bias is not None
    assert np.array_equal(linear.bias, bias)


@pytest.mark.parametrize(
    ("weight", "bias"), [(B, None), (B.reshape(2, 2), None), (A, A[0]), (A, B[:2])]
)
def test_dense_layers_of_another_kind_are_refused(
    tmp_path: Path, weight: np.ndarray, bias: np.ndarray | None
) -> None:
    tensors = {"l.weight": weight} | ({} if bias is None else {"l.bias": bias})
    save(tmp_path / "x.safetensors", tensors)
    with pytest.raises(FormatError, match="must be"):
        open_model(tmp_path).linear("l")


def test_dense_numbers_beyond_float16_become_infinite(tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", {"l.weight": np.array([[1e6]], np.float32)})
    assert np.isinf(open_model(tmp_path).linear("l").dequantize()).all()
