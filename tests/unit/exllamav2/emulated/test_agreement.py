"""The engine says what the CPU engine says of the same files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron.models.bundled import bundled_root
from neuron.text.tokenizer import TextTokenizer
from tests.gpu.agreement import CACHES, TRAINED, Reference
from tests.gpu.models import write_tiny
from tests.gpu.prompts import prompt_of
from tests.unit.exllamav2.emulated.support import STARTING_BYTES, TIMEOUT, running
from tests.unit.reference.support import generate, request

pytestmark = TIMEOUT
MIB = 1 << 20


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    judge = Reference()
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "m")


def test_the_bundled_model_tells_the_same_story(reference: Reference) -> None:
    bundled = bundled_root() / "tinystories-15m"
    tokenizer = TextTokenizer.load(bundled)
    prompt = tokenizer.encode("Once upon a time, there was a", add_bos=True)
    story = request("a", prompt, 16, top_logprobs=0)
    wanted = generate(reference.of(bundled), story)["a"].tokens
    with running(bundled, slots=2) as engine:
        output = generate(engine, story)["a"]
    assert output.tokens == wanted
    reference.judge(bundled, prompt, output, TRAINED).check(TRAINED)


@pytest.mark.parametrize("mode", CACHES)
def test_every_cache(reference: Reference, tiny: Path, mode: str) -> None:
    """Two sequences of different lengths that decode together, over a page's end."""
    with running(tiny, slots=2, cache_mode=mode, cache_tokens=1024) as engine:
        wanted = [
            request(str(count), prompt_of(count), 8, top_logprobs=0)
            for count in (40, 253)
        ]
        outputs = generate(engine, *wanted)
    for one in wanted:
        found = reference.judge(tiny, one.prompt_ids, outputs[one.id], CACHES[mode])
        found.check(CACHES[mode])


def test_layers_on_two_devices_compute_the_same(tiny: Path) -> None:
    said = []
    for free in ([1 << 30], [STARTING_BYTES + 96 * MIB, 1 << 30]):
        devices = list(range(len(free)))
        with running(
            tiny, free=free, devices=devices, slots=2, cache_tokens=1 << 16
        ) as engine:
            running_on = engine._require().loaded.placed.layers
            assert set(running_on) == set(devices)
            wanted = request("a", prompt_of(40), 4, top_logprobs=0)
            said.append(generate(engine, wanted)["a"])
    assert said[0].tokens == said[1].tokens
    assert said[0].logprobs == said[1].logprobs
