"""Plain torch, which other kernels stand aside for on a CPU."""

import pytest

from tests.support import cuda_stack
from tests.unit.exllamav2.attention.cases import (
    EDGES,
    MASKS,
    MODELS,
    WITHOUT_PAGES,
    Case,
)

cuda_stack.require("torch", "triton")

from tests.unit.exllamav2.attention import checks


@pytest.mark.parametrize(
    "case",
    [*MODELS, *MASKS, *EDGES, *WITHOUT_PAGES, Case((90, 4), dtype="bfloat16")],
    ids=str,
)
def test_any_cache_is_written_and_read(case: Case) -> None:
    checks.agrees(case, "plain")
