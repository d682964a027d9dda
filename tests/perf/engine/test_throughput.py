"""Prints the benchmark's table: `pytest -n 0 -s -m perf tests/perf/engine`."""

import sys

import pytest

from neuron.models.bundled import bundled_root
from tests.perf.engine.throughput import HEADER, STREAMS, measure


@pytest.mark.perf
def test_throughput_against_bare_products() -> None:
    rows = measure(bundled_root() / "tinystories-15m")
    sys.stdout.write("\n".join(["", HEADER, *map(str, rows), ""]))
    assert [row.streams for row in rows] == [*STREAMS, *STREAMS]
    assert all(row.engine > 0 and row.bare > 0 for row in rows)
