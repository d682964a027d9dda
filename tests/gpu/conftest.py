"""Everything here needs an NVIDIA GPU, and is skipped with that reason elsewhere."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from neuron.models.bundled import bundled_root


def _why_not() -> str | None:
    for package in ("torch", "exllamav2"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install 'cortex-tui[cuda]'"
    import torch

    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU here"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is collected here; only what will run pays for importing torch."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _why_not() if here else None
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def bundled() -> Path:
    """Folder of the bundled model."""
    return bundled_root() / "tinystories-15m"
