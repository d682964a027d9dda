"""Products in fixed shapes: right, and row by row the same."""

import os
import subprocess
import sys

import numpy as np
import pytest

from neuron.engines.reference import tiles
from neuron.engines.reference.threads import SHARE, Threads
from neuron.engines.reference.tiles import (
    DEPTH,
    TILE,
    Layout,
    Product,
    RowSizes,
    even_slices,
    panelize,
    row_sizes,
)


def product(
    weight: tiles.Floats, rows: tiles.Floats, sizes: RowSizes, threads: Threads
) -> tiles.Floats:
    """rows @ weight as the engine computes it."""
    layout = Layout.of(*weight.shape)
    padded = sizes.padded(len(rows))
    inputs = np.zeros((padded, layout.padded_inputs), np.float32)
    inputs[: len(rows), : layout.inputs] = rows
    outputs = np.full((padded, layout.padded_outputs), np.nan, np.float32)
    partial = np.zeros(padded * layout.partial_size, np.float32)
    Product(layout, inputs, outputs, partial, sizes, threads)(panelize(weight))
    return outputs[: len(rows), : layout.outputs]


SHAPES = [(5, 3), (64, 64), (288, 864), (768, 288), (1042, 100), (1537, 65)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("smallest", [1, 2, 8])
def test_product_is_the_product(shape: tuple[int, int], smallest: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal(shape).astype(np.float32)
    rows = random.standard_normal((21, shape[0])).astype(np.float32)
    threads = Threads(1)
    for count in (1, 3, 8, 21):
        found = product(weight, rows[:count], RowSizes(smallest), threads)
        exact = rows[:count].astype(np.float64) @ weight
        np.testing.assert_allclose(found, exact, atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_do_not_depend_on_each_other(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal(shape).astype(np.float32)
    rows = random.standard_normal((21, shape[0])).astype(np.float32)
    sizes = row_sizes([panelize(weight)[0, 0, 0]])
    threads = Threads(1)
    together = product(weight, rows, sizes, threads)
    for first, last in ((0, 1), (20, 21), (3, 6), (7, 20)):
        alone = product(weight, rows[first:last], sizes, threads)
        np.testing.assert_array_equal(alone, together[first:last])


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((600, 700)).astype(np.float32)
    rows = random.standard_normal((19, 600)).astype(np.float32)
    single = product(weight, rows, RowSizes(2), Threads(1))
    monkeypatch.setattr("neuron.engines.reference.threads.SHARE", SHARE // 1000)
    for count in (2, 3, 7):
        threads = Threads(count)
        try:
            found = product(weight, rows, RowSizes(2), threads)
        finally:
            threads.close()
        np.testing.assert_array_equal(found, single)


def test_what_no_thread_began_the_caller_does_itself() -> None:
    threads = Threads(2)
    done: list[int] = []
    try:
        threads.run(done.append, [(number,) for number in range(50)])
    finally:
        threads.close()
    assert sorted(done) == list(range(50))


def test_a_failing_share_is_not_lost() -> None:
    threads = Threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            threads.run(divmod, [(1, 1), (1, 0), (1, 1)])
    finally:
        threads.close()


def test_layouts_pad_as_little_as_they_can() -> None:
    assert Layout.of(288, 864) == Layout(288, 864, 1, 288)
    assert Layout.of(4864, 896).depth == 304
    prime = Layout.of(2 * 521, 100)
    assert (prime.blocks, prime.depth, prime.padded_inputs) == (3, 348, 1044)
    for size in range(1, 3000, 7):
        layout = Layout.of(size, 1)
        assert layout.depth <= DEPTH
        assert 0 <= layout.padded_inputs - size < layout.blocks


def test_padded_rows() -> None:
    sizes = RowSizes(2)
    padded = [sizes.padded(rows) for rows in (1, 2, 3, 5, 8, 9, 16, 17)]
    assert padded == [2, 2, 4, 8, 8, 16, 16, 24]
    assert [RowSizes(1).padded(rows) for rows in (1, 2, 9)] == [1, 2, 9]
    assert RowSizes(TILE).padded(1) == TILE


def test_a_blas_whose_rows_differ_gets_one_row_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "_rows_agree", lambda right, smallest: smallest > 4)
    right = np.ones((4, 4), np.float32)
    assert row_sizes([right]).smallest == TILE
    monkeypatch.setattr(tiles, "_rows_agree", lambda right, smallest: False)
    assert row_sizes([right]).smallest == row_sizes([right]).tile == 1


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_even_slices(parts: int) -> None:
    slices = even_slices(10, parts)
    assert len(slices) == parts
    assert [i for piece in slices for i in range(10)[piece]] == list(range(10))


KERNELS = ["Haswell", "SkylakeX", "Sandybridge", "Nehalem", "Prescott"]
CHECK = """
import numpy as np
from neuron.engines.reference.threads import Threads
from neuron.engines.reference.tiles import panelize, row_sizes
from tests.unit.reference.test_tiles import product
random = np.random.default_rng(0)
weight = random.standard_normal((288, 200)).astype(np.float32)
rows = random.standard_normal((19, 288)).astype(np.float32)
sizes = row_sizes([panelize(weight)[0, 0, 0]])
whole = product(weight, rows, sizes, Threads(1))
for first in range(19):
    for last in (first + 1, first + 3, first + 6):
        part = product(weight, rows[first:last], sizes, Threads(1))
        assert np.array_equal(part, whole[first:last]), (sizes.smallest, first, last)
"""


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_agree_on_other_processors(kernel: str) -> None:
    """OpenBLAS can be told to use the kernels of older processors."""
    environ = os.environ | {"OPENBLAS_CORETYPE": kernel}
    ran = subprocess.run(
        [sys.executable, "-c", CHECK], env=environ, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
