"""What is collected here runs once more where torch, triton and exllamav2 are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark it, before items are chosen by their marks."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda_stack)


@pytest.fixture
def library() -> Iterator[tuple[Any, Any]]:
    """exllamav2's loader on the CPU, and what its kernels would have made."""
    from tests.unit.exllamav2.cpu_library import library_on_the_cpu

    with library_on_the_cpu() as found:
        yield found
