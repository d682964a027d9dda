"""A tiny model, and who guesses for it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.exllamav2.speculation.support import Driving


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit.exllamav2.speculation.support import made

    return made(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that often guesses wrong."""
    from tests.unit.exllamav2.speculation.support import made

    return made(tmp_path_factory.mktemp("other"), layers=1)


@pytest.fixture(params=["ngram", "itself", "other"])
def guessing(request: pytest.FixtureRequest, folder: Path, other: Path) -> "Driving":
    """`driving`, with guesses."""
    from tests.unit.exllamav2.speculation.support import DRAFT, NGRAM
    from tests.unit.exllamav2.torch_engine import driving

    if request.param == "ngram":
        return partial(driving, options=NGRAM)
    draft = folder if request.param == "itself" else other
    return partial(driving, options=DRAFT, draft=draft)


@pytest.fixture
def by_itself(folder: Path) -> "Driving":
    """Drafts by the model itself: every guess is right."""
    from tests.unit.exllamav2.speculation.support import DRAFT, PAGE
    from tests.unit.exllamav2.torch_engine import driving

    return partial(driving, folder, options=DRAFT, draft=folder, page_size=PAGE)
