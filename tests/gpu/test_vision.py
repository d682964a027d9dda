"""Vision towers on the GPU, and prompts with images through the whole engine."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow

from neuron.engines.base import Engine, GenerationRequest, Image
from neuron.models.info import ModelInfo
from tests.gpu.loads import loaded
from tests.support.pictures import noise
from tests.unit.exllamav2.vision_models import FAMILIES, write_vision
from tests.unit.reference.support import generate, request

_PART = 7
_BEFORE, _AFTER = tuple(range(10, 40)), (50, 51)
_WITHIN = 0.02
"""Of the embeddings' norm: float16 against float32."""


@pytest.fixture(scope="module", params=FAMILIES)
def seeing(
    request: pytest.FixtureRequest,
    engine_class: type[Engine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, ModelInfo, Engine]]:
    """A tiny model of each family, loaded."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("vision") / name
    info = write_vision(folder, name)
    with loaded(engine_class, folder, slots=4, cache_tokens=4096) as engine:
        yield name, info, engine


def _image(info: ModelInfo, picture: pillow.Image, start: int) -> Image:
    assert info.vision is not None
    grid = info.vision.grid(*picture.size)
    filter_ = pillow.Resampling(info.vision.resample)
    pixels = np.asarray(picture.resize((grid.width, grid.height), filter_))
    return Image.of(pixels, tuple(range(start, start + grid.tokens)))


def _asking(name: str, info: ModelInfo, seed: int) -> GenerationRequest:
    image = _image(info, noise(64, 48, seed), len(_BEFORE))
    prompt = (*_BEFORE, *[_PART] * len(image.positions), *_AFTER)
    return replace(request(name, prompt, 24), images=(image,))


def test_embeddings_are_those_that_the_family_computes(
    seeing: tuple[str, ModelInfo, Any],
) -> None:
    from tests.support.vision_reference import TowerReference

    name, info, engine = seeing
    eyes = engine._running.loaded.eyes
    family = FAMILIES[name]
    judge = TowerReference(info.path, name, family.config, family.preprocessor)
    for size in ((64, 64), (16, 48), (100, 40)):
        image = _image(info, noise(*size), 0)
        seen = eyes.of(image)
        eyes.look(seen)
        wanted = judge.embeddings(image.pixels)
        assert (seen.embeddings.float() - wanted).norm() / wanted.norm() < _WITHIN


def test_an_image_is_seen_kept_and_told_from_another(
    seeing: tuple[str, ModelInfo, Engine],
) -> None:
    _, info, engine = seeing
    first = generate(engine, _asking("a", info, 1))["a"]
    again = generate(engine, _asking("b", info, 1))["b"]
    other = generate(engine, _asking("c", info, 2))["c"]
    for output in (first, again, other):
        assert output.error is None
        assert len(output.tokens) == 24
    assert first.cached == 0
    assert again.cached == len(_asking("b", info, 1).prompt_ids) - 1
    assert other.cached == len(_BEFORE)
    assert again.tokens == first.tokens


def test_images_and_texts_decode_side_by_side(
    seeing: tuple[str, ModelInfo, Engine],
) -> None:
    _, info, engine = seeing
    text = request("text", _BEFORE, 24)
    alone = generate(engine, replace(text, id="alone"))["alone"]
    outputs = generate(engine, text, _asking("a", info, 3), _asking("b", info, 4))
    assert all(output.error is None for output in outputs.values())
    assert len(outputs["text"].tokens) == len(alone.tokens)
