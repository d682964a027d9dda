"""The header of GGUF files, well-formed and hostile."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given, strategies as st

from neuron.models.errors import ModelError
from neuron.models.gguf.file import GgufFile
from neuron.models.gguf_import import read_gguf
from tests.support.gguf_files import metadata_of, tensors_of, write_gguf
from tests.unit.exl2.support import memory_peak, reproducible
from tests.unit.reference.support import tiny


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny("llama")
    file = tmp_path_factory.mktemp("good") / "good.gguf"
    return write_gguf(file, metadata_of(model), tensors_of(model))


def test_agrees_with_the_reader_of_the_gguf_package(good: Path) -> None:
    theirs = GGUFReader(good)
    ours = GgufFile.open(good)
    keys = [key for key in theirs.fields if not key.startswith("GGUF.")]
    assert list(ours.metadata) == keys
    for key, value in ours.metadata.items():
        wanted = theirs.fields[key].contents()
        shown = value.tolist() if isinstance(value, np.ndarray) else value
        assert shown == (pytest.approx(wanted) if type(value) is float else wanted)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(
            ours.read(ours.tensors[tensor.name]), tensor.data.astype(np.float32)
        )


def test_every_type_of_value(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    kinds = GGUFValueType
    for kind, value in (
        (kinds.UINT8, 255), (kinds.INT8, -128), (kinds.UINT16, 65535),
        (kinds.INT16, -32768), (kinds.UINT32, 1 << 31), (kinds.INT32, -5),
        (kinds.UINT64, 1 << 63), (kinds.INT64, -(1 << 63)), (kinds.FLOAT64, 0.1),
        (kinds.BOOL, True), (kinds.STRING, "Grüße"), (kinds.FLOAT32, 0.1),
    ):  # fmt: skip
        writer.add_key_value(kind.name, value, kind)
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("strings", ["", "é", "x" * 300])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dict(GgufFile.open(tmp_path / "m.gguf").metadata)
    floats = found.pop("floats")
    assert isinstance(floats, np.ndarray)
    assert floats.tolist() == [0.5, 1.5]
    assert found == {
        "general.architecture": "llama",
        "UINT8": 255, "INT8": -128, "UINT16": 65535, "INT16": -32768,
        "UINT32": 1 << 31, "INT32": -5, "UINT64": 1 << 63, "INT64": -(1 << 63),
        "FLOAT64": 0.1, "BOOL": True, "STRING": "Grüße", "FLOAT32": 0.1,
        "strings": ["", "é", "x" * 300],
    }  # fmt: skip
    assert found["BOOL"] is True


def test_a_large_tensor_is_read_in_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((3000, 2048), np.float32)
    kinds = {"w": GGMLQuantizationType.Q8_0}
    file = GgufFile.open(
        write_gguf(
            tmp_path / "m.gguf", {"general.architecture": "llama"}, {"w": weight}, kinds
        )
    )
    rows = rng.permutation(3000)
    with memory_peak() as peak:
        found = file.read(file.tensors["w"], rows)
    error = np.linalg.norm(found - weight[rows]) / np.linalg.norm(weight)
    assert error < 0.01
    assert peak.bytes < 4 * weight.nbytes


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str) -> bytes:
    return u64(len(value)) + value.encode()


def header(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(tensors) + u64(keys)


def tensor(
    name: str = "w", sizes: tuple[int, ...] = (32, 2), kind: int = 0, offset: int = 0
) -> bytes:
    raw = text(name) + u32(len(sizes)) + b"".join(u64(size) for size in sizes)
    return raw + u32(kind) + u64(offset)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x80\x02}q\x00" * 9, "does not begin with GGUF"),
        (b"GG", "the magic ends at byte 4"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (header(0, 0, version=1), "GGUF version 1; 2 and 3"),
        (header(1 << 60, 0), "claims 1152921504606846976 tensors"),
        (header(0, 1 << 60), "claims 1152921504606846976 metadata keys"),
        (header(0, 9), "a metadata key ends at byte 32"),
        (header(0, 1) + u64(1 << 62), "a metadata key ends at byte"),
        (header(0, 1) + u64(2) + b"\xff\xfe", "a metadata key is not UTF-8"),
        (
            header(0, 1) + text("k") + u32(77) + bytes(8),
            "'k' is of the unknown type 77",
        ),
        (header(0, 1) + text("k") + u32(4) + b"\0", "'k' ends at byte"),
        (header(0, 1) + text("k") + u32(8) + u64(1 << 63), "'k' ends at byte"),
        (
            header(0, 1) + text("k") + u32(9) + u32(8) + u64(1 << 60),
            "'k' claims 1152921504606846976 strings",
        ),
        (
            header(0, 1) + text("k") + u32(9) + u32(8) + u64(2) + text("a") + u64(99),
            "'k' is truncated",
        ),
        (header(0, 1) + text("k") + u32(9) + u32(4) + u64(1 << 61), "'k' ends at byte"),
        (
            header(0, 1) + text("k") + u32(9) + u32(9) + u64(1),
            "'k' is an array of array",
        ),
        (header(0, 2) + 2 * (text("k") + u32(7) + b"\1"), "'k' is there twice"),
        (
            header(0, 1) + text("general.alignment") + u32(4) + u32(0),
            "general.alignment must be a power of two",
        ),
        (
            header(0, 1) + text("general.alignment") + u32(4) + u32(48),
            "general.alignment must be a power of two",
        ),
        (header(1, 0) + tensor(sizes=()), "'w' has 0 dimensions"),
        (header(1, 0) + tensor(sizes=(1,) * 9), "'w' has 9 dimensions"),
        (header(1, 0) + tensor(sizes=(1 << 63, 1 << 63)), "the impossible shape"),
        (header(1, 0) + tensor(sizes=(0, 4)), "the impossible shape"),
        (header(1, 0) + tensor(kind=4000), "'w' is of the unknown type 4000"),
        (header(1, 0) + tensor(kind=24), "'w' is I8, which cannot be dequantized"),
        (
            header(1, 0) + tensor(sizes=(33, 2), kind=8),
            "Q8_0 in rows of 33, no multiple",
        ),
        (header(1, 0) + tensor(offset=4) + bytes(999), "'w' lies at no multiple of 32"),
        (header(1, 0) + tensor(offset=1 << 40), "'w' ends beyond the file's"),
        (header(1, 0) + tensor() + bytes(99), "'w' ends beyond the file's"),
        (header(2, 0) + 2 * tensor() + bytes(999), "'w' is there twice"),
    ],
)
def test_malformed_headers(tmp_path: Path, raw: bytes, reason: str) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(raw)
    with memory_peak() as peak, pytest.raises(ModelError) as raised:
        GgufFile.open(file)
    assert reason in str(raised.value)
    assert str(raised.value).startswith(f"{file}: ")
    assert peak.bytes < 1 << 20


def refused_or_read(file: Path) -> None:
    try:
        model = read_gguf(file)
    except ModelError:
        return
    for name in model.tensors.specs:
        model.tensors.read(name)


@pytest.fixture(scope="module")
def small(good: Path) -> Callable[[bytes], Path]:
    """Writes a file that is overwritten each time."""
    file = good.parent / "tampered.gguf"

    def write(raw: bytes) -> Path:
        file.write_bytes(raw)
        return file

    return write


@reproducible
@given(data=st.data())
def test_truncated_files(
    good: Path, small: Callable[[bytes], Path], data: st.DataObject
) -> None:
    raw = good.read_bytes()
    length = data.draw(st.integers(1, len(raw) - 64))
    with pytest.raises(ModelError):
        GgufFile.open(small(raw[:length]))


@reproducible
@given(data=st.data())
def test_tampered_headers(
    good: Path, small: Callable[[bytes], Path], data: st.DataObject
) -> None:
    raw = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(8, 6000))] = data.draw(st.integers(0, 255))
    refused_or_read(small(bytes(raw)))
