"""Headers of any kind: what is allowed is read, and the rest is a FormatError."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from neuron.exl2 import FormatError, TensorSpec
from neuron.exl2.header import MAX_HEADER_BYTES, read_header
from tests.unit.exl2.support import entry, file_bytes, memory_peak, reproducible


def read(folder: Path, content: bytes) -> dict[str, TensorSpec]:
    file = folder / "model.safetensors"
    file.write_bytes(content)
    return read_header(file)


def refusal(folder: Path, content: bytes) -> FormatError:
    with pytest.raises(FormatError) as caught:
        read(folder, content)
    assert caught.value.file == folder / "model.safetensors"
    assert str(caught.value.file) in str(caught.value)
    return caught.value


def test_offsets_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry("F16", [2, 3], 4, 16),
        "a": entry("I32", [], 0, 4),
        "none": entry("F32", [0, 7], 16, 16),
    }
    content = file_bytes(header, bytes(16))
    start = len(content) - 16
    specs = read(tmp_path, content)
    file = tmp_path / "model.safetensors"
    assert specs == {
        "a": TensorSpec("a", "I32", (), file, start, 4),
        "b": TensorSpec("b", "F16", (2, 3), file, start + 4, 12),
        "none": TensorSpec("none", "F32", (0, 7), file, start + 16, 0),
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"\x01\x00\x00", "3 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "claims 9223372036854775808"),
        (struct.pack("<Q", 3) + b"{}", "claims 3 bytes"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 2) + b"{]", "not JSON"),
        (struct.pack("<Q", 3) + b"{\xff}", "not JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not a JSON object"),
        (file_bytes({"__metadata__": 7}), "__metadata__"),
        (struct.pack("<Q", 90000) + b'{"a":' + b"[" * 89995, "nested too deeply"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (b"\x80\x02}q\x00." + bytes(60), "Python pickle"),
        (b"\x80\x04\x95" + bytes(60), "Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"GGUF" + bytes(60), "GGUF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_something_else_are_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    error = refusal(tmp_path, content)
    assert reason in error.reason
    assert error.tensor is None


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (7, "not a JSON object"),
        ({"shape": [1], "data_offsets": [0, 4]}, "dtype must be a string"),
        (entry("F7", [1], 0, 4), "unknown dtype 'F7'"),
        ({"dtype": "F32", "data_offsets": [0, 4]}, "shape"),
        (entry("F32", [-1], 0, 4), "shape"),
        (entry("F32", [True], 0, 4), "shape"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "shape"),
        (entry("F32", [1] * 9, 0, 4), "shape"),
        (entry("F32", [2**60], 0, 4), "shape"),
        (entry("F32", [2**40, 2**40], 0, 4), "needs 4835703278458516698824704 bytes"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "data_offsets"),
        (entry("F32", [1], 4, 0), "data_offsets"),
        (entry("F32", [1], -4, 0), "data_offsets"),
        (entry("F32", [2], 0, 4), "needs 8 bytes, has 4"),
        (entry("F32", [2], 0, 8), "truncated"),
        (entry("F32", [1], 1, 5), "unused bytes"),
    ],
)
def test_a_tensor_that_lies_is_named(
    tmp_path: Path, tensor: object, reason: str
) -> None:
    error = refusal(tmp_path, file_bytes({"layer.weight": tensor}, bytes(4)))
    assert error.tensor == "layer.weight"
    assert reason in error.reason


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    header = {"a": entry("I32", [2], 0, 8), "b": entry("I32", [2], 4, 12)}
    error = refusal(tmp_path, file_bytes(header, bytes(12)))
    assert error.tensor == "b"
    assert "overlaps tensor 'a'" in error.reason


def test_bytes_that_belong_to_no_tensor_are_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, file_bytes({"a": entry("I32", [1], 0, 4)}, bytes(9)))
    assert "5 bytes follow its last tensor" in error.reason


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry("I32", [1], 0, 4)).encode()
    raw = b'{"a":' + one + b',"a":' + one + b"}"
    error = refusal(tmp_path, struct.pack("<Q", len(raw)) + raw + bytes(4))
    assert error.tensor == "a"
    assert "twice" in error.reason


def test_a_long_or_unprintable_name_does_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\ud800" + "x" * 5000
    error = refusal(tmp_path, file_bytes({name: 7}))
    assert str(error).isprintable()
    assert len(str(error)) < len(str(error.file)) + 400


def test_a_header_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
        stream.truncate(MAX_HEADER_BYTES + 100)
    with memory_peak() as peak, pytest.raises(FormatError, match="is over"):
        read_header(file)
    assert peak.bytes < 1 << 20


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x0580])
def test_a_length_that_looks_like_a_pickle_is_only_a_length(
    tmp_path: Path, length: int
) -> None:
    raw = b"{}".ljust(length)
    assert struct.pack("<Q", length)[:1] == b"\x80"
    assert read(tmp_path, struct.pack("<Q", length) + raw) == {}


# --- any bytes at all ---

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats(allow_nan=True)
    | st.sampled_from(["F16", "F32", "BF16", "I32", "Q4"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
_plausible = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "I8", "BF16"]) | _json,
        "shape": st.lists(st.integers(0, 8), max_size=3) | _json,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | _json,
    }
)
_headers = st.dictionaries(
    st.sampled_from(["a", "b.weight", "c.q_weight"]) | st.text(max_size=5),
    _plausible | _json,
    max_size=4,
)
_files = st.one_of(
    st.binary(max_size=200),
    st.builds(file_bytes, _headers, st.binary(max_size=64)),
    st.builds(
        lambda length, rest: struct.pack("<Q", length) + rest,
        st.integers(0, 2**64 - 1) | st.integers(0, 100),
        st.binary(max_size=100),
    ),
)


@reproducible
@given(content=_files)
@example(content=struct.pack("<Q", 5000) + b"9" * 5000)
@example(content=struct.pack("<Q", 14) + b'{"a":1e999999}')
@example(content=file_bytes({"a": entry("F32", [0, 2**48], 0, 0)}))
def test_any_bytes_are_read_or_refused_in_little_memory(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "hostile.safetensors"
    file.write_bytes(content)
    specs: dict[str, TensorSpec] = {}
    with memory_peak() as peak, suppress(FormatError):
        specs = read_header(file)
    assert peak.bytes < 200_000 + 100 * len(content)
    assert all(s.offset + s.nbytes <= len(content) for s in specs.values())
    assert sum(s.nbytes for s in specs.values()) <= len(content)
