"""Models for the tests of the reference engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuron.engines.reference.engine import ReferenceEngine
from tests.goldens.tiny_models import tensors, write_folder, write_tiny_model
from tests.unit.reference.support import loaded, tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model, written when it is first asked for."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else write_tiny_model(path, tiny(name))

    return folder


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 640 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 640}
    return write_folder(tmp_path_factory.mktemp("long"), config, tensors(model))


@pytest.fixture
def engine(long_folder: Path) -> Iterator[ReferenceEngine]:
    """The long model with four slots and room for all of them."""
    with loaded(long_folder, slots=4) as engine:
        yield engine
