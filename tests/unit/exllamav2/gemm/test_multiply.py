"""The product against the matrix that our own reader dequantizes."""

import pytest

from neuron.engines.exllamav2.gemm.matrix import input_order, row_ends
from tests.support import cuda_stack
from tests.support.triton_interpreter import Interpreter
from tests.unit.exllamav2.gemm.matrices import Plan

cuda_stack.require("torch", "triton")

pytestmark = pytest.mark.cuda_stack

EVERY_WIDTH: Plan = ((8, 32), (6, 64), (5, 32), (4, 32), (3, 32), (2, 64))
USUAL: Plan = ((5, 128), (4, 128), (4, 32))
ODD: Plan = ((3, 96),)


@pytest.mark.parametrize(
    ("plan", "columns"), [(EVERY_WIDTH, 32), (USUAL, 96), (ODD, 32), (((4, 32),), 32)]
)
def test_reads_every_weight(interpreted: Interpreter, plan: Plan, columns: int) -> None:
    interpreted.run("reads_every_weight", plan, columns)


@pytest.mark.parametrize("rows", [1, 5, 17, 64, 70])
@pytest.mark.parametrize("bias", [False, True])
def test_multiplies(interpreted: Interpreter, rows: int, bias: bool) -> None:
    interpreted.run("multiplies", USUAL, 64, rows, bias)


def test_multiplies_with_every_width(interpreted: Interpreter) -> None:
    interpreted.run("multiplies", EVERY_WIDTH, 96, 8, False)


def test_is_the_same_every_time(interpreted: Interpreter) -> None:
    interpreted.run("repeats_itself", USUAL, 64)


def test_widths_end_where_their_groups_do() -> None:
    ends = row_ends([5, 0, 4, 20, 4, 36], 40, 288)
    assert ends == {8: 0, 6: 0, 5: 128, 4: 288, 3: 288, 2: 288}


def test_groups_must_hold_all_rows() -> None:
    with pytest.raises(ValueError, match="groups hold 128 rows, and there are 160"):
        row_ends([5, 0], 20, 160)


def test_every_input_has_its_place_and_missing_units_any() -> None:
    ends = row_ends([4, 0], 20, 160)
    order = input_order(ends, range(160))
    assert len(order) == 256
    assert set(order) == set(range(160))
    assert order[:3] == [0, 8, 16]
