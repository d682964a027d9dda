"""The engine's logits against those of an independent implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.goldens.tiny_models import TINY_MODELS, TinyModel
from tests.unit.reference.support import BUNDLED, logits_of

GOLDENS = Path(__file__).parents[2] / "goldens"
TOLERANCE = 1e-4


def relative_error(
    found: NDArray[np.float32], golden: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Per token, of the vector of its logits."""
    assert found.shape == golden.shape
    error = np.linalg.norm(found - golden, axis=1) / np.linalg.norm(golden, axis=1)
    return np.asarray(error, np.float64)


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_tiny_model_agrees_with_hugging_face(
    model: TinyModel, tiny_folder: Callable[[str], Path]
) -> None:
    golden = np.load(GOLDENS / "tiny.npz")[model.name]
    prompt = model.prompt
    found = logits_of(
        tiny_folder(model.name), prompt, [20, 1, len(prompt) - 21], [5, 6, 2]
    )
    assert relative_error(found, golden).max() < TOLERANCE


@pytest.mark.parametrize("name", ["short", "long"])
def test_bundled_model_agrees_with_hugging_face(name: str) -> None:
    goldens = np.load(GOLDENS / "bundled.npz")
    prompt = goldens[f"{name}.prompt"].tolist()
    found = logits_of(BUNDLED, prompt, [len(prompt)], range(16))
    places = goldens[f"{name}.positions"]
    error = relative_error(found[places], goldens[f"{name}.logits"])
    assert error.max() < TOLERANCE


def test_goldens_tell_models_apart() -> None:
    goldens = np.load(GOLDENS / "tiny.npz")
    seen = {goldens[model.name].tobytes() for model in TINY_MODELS}
    assert len(seen) == len(TINY_MODELS)
