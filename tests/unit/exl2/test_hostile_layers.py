"""Whole layers from files that were tampered with: a weight, or a FormatError."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from neuron.exl2 import FormatError, open_model
from neuron.exl2.quantize import quantize_linear
from tests.unit.exl2.support import memory_peak, reproducible, save

LAYERS = ("exl2", "gptq", "dense")


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small layer of each kind."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 20)).astype(np.float32)
    made = quantize_linear(weight, [(6, 32), (3, 32)], order=rng.permutation(64))
    tensors = {f"exl2.{name}": tensor for name, tensor in made.tensors().items()}
    tensors |= {
        "gptq.qweight": rng.integers(-(2**31), 2**31, (8, 16), dtype=np.int32),
        "gptq.qzeros": rng.integers(-(2**31), 2**31, (2, 2), dtype=np.int32),
        "gptq.scales": rng.random((2, 16)).astype(np.float32),
        "gptq.g_idx": rng.integers(0, 2, 64).astype(np.int32),
        "dense.weight": weight.T.copy(),
        "dense.bias": rng.random(20).astype(np.float16),
    }
    file = tmp_path_factory.mktemp("good") / "model.safetensors"
    save(file, tensors)
    return file


def read_all(file: Path) -> int:
    """Dequantize every layer that can be; how many could."""
    try:
        model = open_model(file)
    except FormatError:
        return 0
    read = 0
    for key in LAYERS:
        try:
            linear = model.linear(key)
        except FormatError:
            continue
        weight = linear.dequantize()
        assert weight.shape == (linear.in_features, linear.out_features)
        assert weight.dtype == np.float16
        read += 1
    return read


def test_the_file_is_good_as_long_as_nobody_touched_it(good_file: Path) -> None:
    assert read_all(good_file) == 3


_bytes = st.one_of(
    st.integers(0, 255), st.sampled_from([0, 255, 127, *b'0123456789,[]{}:"FIB'])
)


@settings(reproducible, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), _bytes), max_size=6),
    header_only=st.booleans(),
    cut=st.none() | st.floats(0, 1),
)
def test_a_tampered_file_is_read_or_refused_in_little_memory(
    good_file: Path,
    changes: list[tuple[float, int]],
    header_only: bool,
    cut: float | None,
) -> None:
    content = bytearray(good_file.read_bytes())
    header_end = 8 + int.from_bytes(content[:8], "little")
    reach = (header_end if header_only else len(content)) - 1
    for place, value in changes:
        content[round(place * reach)] = value
    if cut is not None:
        del content[round(cut * len(content)) :]
    file = good_file.with_name("tampered.safetensors")
    file.write_bytes(content)
    with memory_peak() as peak:
        read_all(file)
    assert peak.bytes < 300_000 + 60 * len(content)


@reproducible
@given(
    pairs=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=8)
    | st.lists(st.integers(0, 12), min_size=4, max_size=4)
)
def test_any_groups_are_read_or_refused(good_file: Path, pairs: list[int]) -> None:
    model = open_model(good_file)
    tensors = {
        name: np.array(model.read(name))
        for name in model.specs
        if name.startswith("exl2.")
    }
    tensors["exl2.q_groups"] = np.array(pairs, dtype=np.int16)
    file = good_file.with_name("groups.safetensors")
    save(file, tensors)
    assert read_all(file) == int(pairs == [6, 0, 3, 6])
