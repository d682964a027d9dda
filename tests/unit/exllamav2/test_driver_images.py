"""Images among a prompt's tokens, through the library's real generator.

The tower is a stand-in: of an image whose pixels spell token ids it makes the
embeddings of these tokens. What comes of an image must be what comes of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import torch

from neuron.engines.base import (
    EngineError,
    GenerationRequest,
    Image,
    SamplingParams,
)
from neuron.engines.exllamav2.vision.eyes import FIRST_ID, MOST_TOKENS, Eyes
from neuron.models.image_sizing import PixelBudget
from neuron.models.vision import ImageSyntax, VisionInfo
from neuron.protocol.types import LoadOptions
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.torch_engine import (
    Call,
    GenerationDriver,
    TorchLoaded,
    assert_page_table_holds,
    driving,
    model_of,
)
from tests.unit.reference.support import Output, Outputs, generate, request, tiny

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 16
PART = 5
"""The token that stands for a part of an image in a prompt."""
VISION = VisionInfo(
    ImageSyntax(written="[I]", spelt="[I]", token="[I]"),
    PixelBudget(patch=1, merge=1, least=1, most=4096),
    resample=3,
)
BEFORE, AFTER = tuple(range(3, 23)), (40, 41, 42)


def pixels_of(ids: Sequence[int], columns: int) -> Any:
    rows = np.array(ids, np.uint8).reshape(-1, columns, 1)
    return np.repeat(rows, 3, axis=2)


@dataclass
class Tower:
    """Looks at images, and remembers it."""

    folder: Path
    looked: list[Any] = field(default_factory=list)
    fails: Exception | None = None

    def __call__(self, image: Image) -> torch.Tensor:
        self.looked.append(image.digest)
        if self.fails is not None:
            raise self.fails
        ids = torch.from_numpy(image.pixels[..., 0].astype(np.int64)).flatten()
        return model_of(self.folder).embedding[ids]


def eyes_of(tower: Tower, cache_bytes: int = 1 << 20) -> Eyes:
    config = SimpleNamespace(
        vision_patch_size={"height": 1, "width": 1}, vision_spatial_merge_size=1
    )
    theirs = SimpleNamespace(config=config, unload=lambda: None)
    return Eyes(VISION, theirs, tower, cache_bytes)


def asking(
    name: str,
    count: int,
    *images: tuple[Sequence[int], int],
    before: Sequence[int] = BEFORE,
    after: Sequence[int] = AFTER,
    **fields: Any,
) -> GenerationRequest:
    """Images, each of ids and of a number of columns, between two texts."""
    ids, seen = list(before), []
    for contents, columns in images:
        start = len(ids)
        ids += [PART] * len(contents)
        places = tuple(range(start, len(ids)))
        seen.append(Image.of(pixels_of(contents, columns), places))
        ids.append(AFTER[0])
    return replace(request(name, (*ids, *after), count, **fields), images=tuple(seen))


def spelt(asked: GenerationRequest) -> GenerationRequest:
    """The same with the tokens that the images are made of."""
    ids = list(asked.prompt_ids)
    for image in asked.images:
        contents = image.pixels[..., 0].flatten().tolist()
        for place, token in zip(image.positions, contents, strict=True):
            ids[place] = token
    return replace(asked, prompt_ids=tuple(ids), images=())


CAT = (tuple(range(30, 60)), 6)
DOG = (tuple(range(60, 90)), 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 640 tokens."""
    model = tiny("llama")
    config = model.config | {"max_position_embeddings": 640}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


@pytest.fixture
def tower(folder: Path) -> Tower:
    return Tower(folder)


@pytest.fixture
def driver(folder: Path, tower: Tower) -> Iterator[GenerationDriver]:
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes_of(tower)) as driver:
        yield driver
        driver.generator.model.before_call = lambda call: None


def expected(folder: Path, *asked: GenerationRequest, **settings: Any) -> Outputs:
    """What comes of the same tokens as text."""
    with driving(folder, page_size=PAGE, chunk=PAGE, **settings) as plain:
        return generate(plain, *map(spelt, asked))


def test_an_image_is_as_the_embeddings_it_is_made_of(
    folder: Path, driver: GenerationDriver, tower: Tower
) -> None:
    asked = [asking("a", 12, CAT, DOG), asking("b", 12, DOG), asking("c", 12)]
    outputs, wanted = generate(driver, *asked), expected(folder, *asked)
    for name in "abc":
        assert outputs[name].error is None
        assert outputs[name].tokens == wanted[name].tokens
        assert outputs[name].prefilled == wanted[name].prefilled
    assert len({tuple(outputs[name].tokens) for name in "abc"}) == 3
    assert len(tower.looked) == 2
    assert_page_table_holds(driver)


def test_prompts_with_the_same_image_share_pages(
    driver: GenerationDriver, tower: Tower
) -> None:
    first = generate(driver, asking("a", 8, CAT))["a"]
    again = generate(driver, asking("b", 8, CAT))["b"]
    other = generate(driver, asking("c", 8, DOG))["c"]
    assert first.cached == 0
    # All of the prompt but its last token is there, and a next turn would be.
    assert again.cached == len(asking("b", 8, CAT).prompt_ids) - 1
    assert again.tokens == first.tokens
    # The placeholders are alike; what they stand for is not.
    assert other.cached == len(BEFORE)
    assert other.tokens != first.tokens
    assert len(tower.looked) == 2


def test_an_image_that_was_forgotten_is_still_in_the_cache(
    folder: Path, tower: Tower
) -> None:
    eyes = eyes_of(tower, cache_bytes=1)
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes) as driver:
        first = generate(driver, asking("a", 8, CAT))["a"]
        again = generate(driver, asking("b", 8, CAT))["b"]
    assert len(tower.looked) == 2
    assert again.cached == len(asking("b", 8, CAT).prompt_ids) - 1
    assert again.tokens == first.tokens


def test_ids_are_of_the_image_and_of_this_process_alone(tower: Tower) -> None:
    eyes, others = eyes_of(tower), eyes_of(tower)
    [cat], [dog] = asking("a", 1, CAT).images, asking("b", 1, DOG).images
    assert eyes.of(cat).first_index == eyes.of(cat).first_index
    assert eyes.of(cat).first_index != eyes.of(dog).first_index
    assert eyes.of(cat).first_index != others.of(cat).first_index
    for seen in (eyes.of(cat), eyes.of(dog)):
        assert FIRST_ID <= seen.first_index < (1 << 63) - MOST_TOKENS
        assert (seen.first_index - FIRST_ID) % MOST_TOKENS == 0
        start, end = seen.get_vision_token_range()
        assert end - start == 30
    assert eyes.of(cat).thw_grid == (1, 5, 6)


def test_the_shape_of_an_image_is_part_of_what_it_is() -> None:
    ids = CAT[0]
    digests = {Image.of(pixels_of(ids, c), ()).digest for c in (3, 5, 6)}
    assert len(digests) == 3


def test_others_decode_between_one_image_and_the_next(
    driver: GenerationDriver, tower: Tower
) -> None:
    outputs = Outputs({"text": Output(), "images": Output()})
    driver.submit(request("text", BEFORE, 40))
    while not outputs["text"].tokens:
        outputs.step(driver)
    driver.submit(asking("images", 4, CAT, DOG, (DOG[0][::-1], 5)))
    for count in (1, 2, 3):
        before = len(outputs["text"].tokens)
        outputs.step(driver)
        assert len(tower.looked) == count
        assert len(outputs["text"].tokens) == before + 1
        assert outputs["images"].cached is None
    outputs.step(driver)
    assert outputs["images"].cached is not None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("a bad layer"), "engine_error"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
    ],
)
def test_a_tower_that_fails_costs_one_request(
    driver: GenerationDriver, tower: Tower, error: Exception, code: str
) -> None:
    generator, tower.fails = driver.generator, error
    outputs = generate(driver, asking("a", 4, CAT), request("b", BEFORE, 4))
    failed = outputs["a"].error
    assert isinstance(failed, EngineError)
    assert failed.code == code
    assert len(outputs["b"].tokens) == 4
    assert driver.generator is generator
    assert driver.stats().kv_pages_used == 0
    tower.fails = None
    assert len(generate(driver, asking("c", 4, CAT))["c"].tokens) == 4


def test_a_lost_context_costs_the_process(
    driver: GenerationDriver, tower: Tower
) -> None:
    tower.fails = RuntimeError("CUDA error: an illegal memory access was encountered")
    driver.submit(asking("a", 4, CAT))
    with pytest.raises(EngineError) as raised:
        driver.step()
    assert raised.value.fatal


def test_a_tower_that_makes_too_few_embeddings_fails_the_request(
    folder: Path, tower: Tower
) -> None:
    eyes = eyes_of(tower)
    eyes._look = lambda image: tower(image)[1:]
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes) as driver:
        failed = generate(driver, asking("a", 4, CAT))["a"].error
    assert failed is not None
    assert "29 embeddings of an image that has 30 places" in str(failed)


def test_images_survive_being_preempted(folder: Path, tower: Tower) -> None:
    asked = [asking(name, 100, picture) for name, picture in (("a", CAT), ("b", DOG))]
    wanted = expected(folder, *asked)
    with driving(
        folder, page_size=PAGE, chunk=PAGE, cache_tokens=12 * PAGE,
        eyes=eyes_of(tower, cache_bytes=1),
    ) as driver:  # fmt: skip
        outputs = generate(driver, *asked)
        assert driver.stats().preemptions > 0
        assert_page_table_holds(driver)
    for name in "ab":
        assert outputs[name].tokens == wanted[name].tokens


def test_only_others_are_guessed_at(folder: Path, tower: Tower) -> None:
    """The tokens of an image are nobody else's, so that none may be a guess."""
    asked = [
        asking("seen", 40, CAT, CAT, CAT),
        request("read", BEFORE * 2, 40, top_logprobs=0),
    ]
    options = LoadOptions(ngram=True)
    with driving(
        folder, page_size=PAGE, eyes=eyes_of(tower), options=options
    ) as driver:
        generate(driver, asked[0])
        assert driver.stats().rejected_draft_tokens == 0
        found = generate(driver, *asked)
        stats = driver.stats()
        assert stats.accepted_draft_tokens + stats.rejected_draft_tokens > 0
        assert_page_table_holds(driver)
    texts = expected(folder, *asked)
    for name, output in found.items():
        assert output.tokens == texts[name].tokens


def test_images_survive_a_new_generator(folder: Path, tower: Tower) -> None:
    asked = asking("a", 8, CAT)
    wanted = expected(folder, asked)["a"]
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes_of(tower)) as driver:
        model, calls = driver.generator.model, []

        def fail_once(call: Call) -> None:
            calls.append(call)
            if len(calls) == 2:
                raise RuntimeError("a step went wrong")

        model.before_call = fail_once
        output = generate(driver, asked)["a"]
        model.before_call = lambda call: None
    assert len(calls) > 2
    assert output.tokens == wanted.tokens


def test_what_cannot_be_is_refused_by_name(
    folder: Path, driver: GenerationDriver
) -> None:
    good = asking("a", 4, CAT, DOG)
    cat, dog = good.images

    def refused(asked: GenerationRequest, seeing: GenerationDriver = driver) -> Any:
        with pytest.raises(EngineError) as raised:
            seeing.submit(asked)
        return raised.value.param

    shifted = replace(cat, positions=tuple(at + 500 for at in cat.positions))
    assert refused(replace(good, images=(dog, cat))) == "images[1].positions"
    assert refused(replace(good, images=(shifted,))) == "images[0].positions"
    fewer = replace(cat, positions=cat.positions[1:])
    assert refused(replace(good, images=(fewer,))) == "images[0].positions"
    twisted = replace(cat, positions=cat.positions[::-1])
    assert refused(replace(good, images=(twisted,))) == "images[0].positions"
    ending = good.prompt_ids[: dog.positions[-1] + 1]
    assert refused(replace(good, prompt_ids=ending)) == "images[1].positions"
    large = Image.of(np.zeros((80, 80, 3), np.uint8), (1,))
    assert refused(replace(good, images=(large,))) == "images[0].pixels"
    assert refused(replace(good, prompt_logprobs=0)) == "prompt_logprobs"
    with driving(folder, page_size=PAGE) as blind:
        assert refused(good, blind) == "images"


@pytest.fixture
def mrope(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model turns parts of an image by row and column, as Qwen's do."""
    config = model_of(folder).config
    half = config.head_dim // 2
    monkeypatch.setattr(config.arch.lm, "mrope", True)
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    monkeypatch.setattr(config, "mrope_section", sections, raising=False)


def _log(outputs: Outputs, name: str) -> list[float]:
    scores = outputs[name].logprobs
    return [score.chosen for score in scores if score is not None]


@pytest.mark.usefixtures("mrope")
def test_positions_go_on_after_an_image_of_rows_and_columns(
    folder: Path, tower: Tower
) -> None:
    """A prompt that is prefilled, or decoded in part, comes to the same."""
    sampling = SamplingParams(temperature=0)
    asked = asking("a", 40, CAT, DOG, sampling=sampling, top_logprobs=0)
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes_of(tower)) as driver:
        outputs = generate(driver, asked)
        assert driver.generator.model is model_of(folder)
    tokens = outputs["a"].tokens
    later = replace(
        asking("a", 20, CAT, DOG, after=(*AFTER, *tokens[:20]), top_logprobs=0),
        sampling=sampling,
    )
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes_of(tower)) as driver:
        again = generate(driver, later)
    assert again["a"].cached == 0
    assert _log(again, "a") == pytest.approx(_log(outputs, "a")[20:], abs=5e-3)
    assert again["a"].tokens == tokens[20:]


@pytest.mark.usefixtures("mrope")
def test_an_image_turns_its_parts_otherwise_than_text(
    folder: Path, driver: GenerationDriver
) -> None:
    asked = asking("a", 12, CAT)
    wanted = expected(folder, asked)["a"].tokens
    assert generate(driver, asked)["a"].tokens != wanted
    # One part has one row and one column: it is turned as a token is.
    single = asking("b", 12, ((33,), 1))
    assert generate(driver, single)["b"].tokens == expected(folder, single)["b"].tokens


@pytest.mark.usefixtures("mrope")
def test_only_steps_with_images_are_not_repeated_as_recorded(
    folder: Path, tower: Tower
) -> None:
    """A recorded step takes positions for numbers of tokens."""
    recorded: list[int] = []

    @dataclass
    class Steps:
        loaded: TorchLoaded

        def forward(
            self, ids: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor
        ) -> torch.Tensor:
            recorded.append(len(ids))
            generator: Any = seeing.generator
            logits: torch.Tensor = generator._forward(ids, lengths, table)
            return logits

    with driving(
        folder, page_size=PAGE, chunk=PAGE, eyes=eyes_of(tower), steps=Steps
    ) as seeing:
        asked = asking("a", 12, CAT)
        with_image = generate(seeing, asked)["a"].tokens
        assert not recorded
        generate(seeing, request("b", BEFORE, 12))
        assert recorded == [1] * 12
    with driving(folder, page_size=PAGE, chunk=PAGE, eyes=eyes_of(tower)) as driver:
        assert generate(driver, asked)["a"].tokens == with_image
