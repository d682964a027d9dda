"""flash-attn's functions, called as exllamav2 calls them."""

import pytest

from tests.support.triton_interpreter import Interpreter
from tests.unit.exllamav2.attention.cases import WITHOUT_PAGES, Case


@pytest.mark.parametrize(
    "case",
    [
        Case((37, 90)),
        Case((37,), queries=40),  # a chunk of a prompt, on pages in any order
        Case((37,), appends=False),  # one whose keys were written where they go
        Case((90, 200), queries=4, softcap=30.0, window=(50, 50)),
    ],
    ids=str,
)
def test_a_paged_layer(interpreted: Interpreter, case: Case) -> None:
    interpreted.run("agrees_as_called", case)


@pytest.mark.parametrize("case", [Case((37, 90)), Case((37, 9), page=None)], ids=str)
def test_a_tensor_parallel_layer(interpreted: Interpreter, case: Case) -> None:
    interpreted.run("agrees_by_position", case)


@pytest.mark.parametrize(
    "case", [case for case in WITHOUT_PAGES if not case.appends], ids=str
)
def test_a_layer_without_pages(interpreted: Interpreter, case: Case) -> None:
    interpreted.run("agrees_without_cache", case)
