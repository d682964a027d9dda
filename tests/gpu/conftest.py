"""Everything here needs an NVIDIA GPU, and is skipped with that reason elsewhere."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from neuron.engines.base import Engine
from neuron.engines.exllamav2.host.devices import ORDER, VISIBLE
from neuron.models.bundled import bundled_root
from tests.gpu.agreement import Reference
from tests.gpu.loads import loaded
from tests.gpu.models import SHAPES, model_name, write_tiny
from tests.support.synthetic_model import write_synthetic

TIMEOUT_S = 60
"""Of each test: kernels are compiled in the first ones."""


def _why_not() -> str | None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return "run with -n 0: they share one GPU"
    for package in ("torch", "exllamav2"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install 'cortex-tui[cuda]'"
    # The engine settles this before CUDA starts, which other tests here do first.
    os.environ.setdefault(VISIBLE, "0")
    os.environ.setdefault(ORDER, "PCI_BUS_ID")
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
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def bundled() -> Path:
    """Folder of the bundled model."""
    return bundled_root() / "tinystories-15m"


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 1B-shaped model: the run's own, or one that is written now."""
    root = os.environ.get("GPU_RUN_MODELS")
    folder = Path(root or tmp_path_factory.mktemp("models")) / model_name("1b")
    if not folder.is_dir():
        write_synthetic(folder, SHAPES["1b"])
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny(bits=3)` is the folder of a tiny model, written when first asked for."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(**changes: int) -> Path:
        name = "-".join(f"{key}{value}" for key, value in sorted(changes.items()))
        path = root / (name or "plain")
        return path if path.is_dir() else write_tiny(path, **changes)

    return folder


@pytest.fixture(scope="session")
def engine_class() -> type[Engine]:
    """Ours."""
    from neuron.engines.exllamav2.engine import ExLlamaV2Engine

    return ExLlamaV2Engine


@pytest.fixture
def engine(engine_class: type[Engine], tiny: Callable[..., Path]) -> Iterator[Engine]:
    """The plain tiny model with four slots; one at a time, as in a worker."""
    with loaded(engine_class, tiny(), slots=4, cache_tokens=4096) as engine:
        yield engine


@pytest.fixture(scope="session")
def reference() -> Iterator[Reference]:
    """What the CPU engine makes of the same files."""
    judge = Reference()
    yield judge
    judge.close()
