"""The model that is loaded."""

from pathlib import Path

import pytest

from tests.support.synthetic_model import write_synthetic


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EXL2 Llama."""
    from tests.unit.exllamav2.loading.support import TINY

    path = tmp_path_factory.mktemp("models") / "tiny"
    write_synthetic(path, TINY)
    return path
