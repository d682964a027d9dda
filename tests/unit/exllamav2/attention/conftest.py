from collections.abc import Iterator

import pytest

from tests.support import cuda_stack
from tests.unit.exllamav2.attention.interpreter import Interpreter, interpreter


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Interpreter]:
    cuda_stack.require("torch", "triton")
    with interpreter() as process:
        yield process
