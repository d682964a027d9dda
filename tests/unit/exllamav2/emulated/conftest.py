import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _settled() -> Iterator[None]:
    """Every load looks for garbage several times: not in what is imported already."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
