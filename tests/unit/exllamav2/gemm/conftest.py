"""A process that interprets the kernels."""

from collections.abc import Iterator

import pytest

from tests.support import cuda_stack
from tests.support.triton_interpreter import Interpreter, interpreter


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Interpreter]:
    cuda_stack.require("torch", "triton")
    with interpreter("tests.unit.exllamav2.gemm.checks") as process:
        yield process
