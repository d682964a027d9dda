"""Our kernels, interpreted, against attention written down in float64."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.triton_interpreter import Interpreter
from tests.unit.exllamav2.attention.cases import (
    EDGES,
    LONG,
    MASKS,
    MODELS,
    WITHOUT_PAGES,
    Case,
)


@pytest.mark.parametrize("case", MODELS + MASKS + EDGES + LONG, ids=str)
def test_a_paged_cache_is_written_and_read(
    interpreted: Interpreter, case: Case
) -> None:
    interpreted.run("agrees", case)


@pytest.mark.parametrize("case", WITHOUT_PAGES, ids=str)
def test_a_cache_without_pages_is_written_and_read(
    interpreted: Interpreter, case: Case
) -> None:
    interpreted.run("agrees", case)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    causal = draw(st.booleans())
    right = st.integers(-1, 20)
    return Case(
        tuple(draw(st.lists(st.integers(0, 150), min_size=1, max_size=3))),
        queries=draw(st.integers(1, 12)),
        heads=kv_heads * draw(st.sampled_from([1, 2, 3, 5, 8])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 24, 32, 48, 64, 80])),
        page=draw(st.sampled_from([16, 32, 64, 96])),
        causal=causal,
        window=(draw(st.integers(-1, 120)), draw(right)),
        softcap=draw(st.sampled_from([0.0, 2.0, 30.0])),
        appends=draw(st.booleans()),
        spare_columns=draw(st.integers(0, 3)),
    )


@given(_cases())
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_shape_and_mask(interpreted: Interpreter, case: Case) -> None:
    interpreted.run("agrees", case)


def test_nothing_is_read_or_written_behind_the_table(interpreted: Interpreter) -> None:
    interpreted.run("stays_within_its_table")


def test_a_table_may_be_a_part_of_a_wider_one(interpreted: Interpreter) -> None:
    interpreted.run("takes_a_part_of_a_wider_table")


def test_offsets_are_64_bits_wide(interpreted: Interpreter) -> None:
    interpreted.run("reaches_the_end_of_a_large_cache")
