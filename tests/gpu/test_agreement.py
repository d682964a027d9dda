"""Log-probabilities and greedy text are those of the CPU engine, within bounds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from neuron.engines.base import Engine
from neuron.text.tokenizer import TextTokenizer
from tests.gpu.agreement import CACHES, FP16, TRAINED, TWO_BITS, Bound, Reference
from tests.gpu.loads import loaded
from tests.gpu.prompts import prompt_of
from tests.unit.reference.support import generate, request

HEADS = [(4, 4, 32), (8, 2, 64), (7, 1, 128), (4, 1, 96), (2, 1, 256), (32, 4, 32)]
"""Query heads, KV heads and head_dim."""
Record = Callable[[str, object], None]


@pytest.fixture
def check(
    engine_class: type[Engine], reference: Reference, record_property: Record
) -> Callable[..., None]:
    """`check(folder, bound, **fields of LoadRequest)` compares prompt and output."""

    def run(folder: Path, bound: Bound, **fields: object) -> None:
        prompt = prompt_of(300)
        with loaded(engine_class, folder, slots=2, **fields) as engine:
            wanted = request("a", prompt, 40, top_logprobs=0, prompt_logprobs=0)
            output = generate(engine, wanted)["a"]
        assert len(output.scores) == len(prompt) - 1
        for name, value in (
            reference.judge(folder, prompt, output, bound).check(bound).items()
        ):
            record_property(name, value)

    return run


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_every_width(
    check: Callable[..., None], tiny: Callable[..., Path], bits: int
) -> None:
    check(tiny(bits=bits, head_bits=bits), FP16 if bits > 2 else TWO_BITS)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
def test_every_head_layout(
    check: Callable[..., None],
    tiny: Callable[..., Path],
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> None:
    check(tiny(heads=heads, kv_heads=kv_heads, head_dim=head_dim), FP16)


@pytest.mark.parametrize("mode", CACHES)
def test_every_cache(
    check: Callable[..., None], tiny: Callable[..., Path], mode: str
) -> None:
    check(tiny(head_dim=64), CACHES[mode], cache_mode=mode)


def test_many_layers(check: Callable[..., None], tiny: Callable[..., Path]) -> None:
    check(tiny(layers=24), Bound(mean=0.04, most=0.25))


def test_the_bundled_model_tells_the_same_story(
    engine_class: type[Engine],
    reference: Reference,
    bundled: Path,
    record_property: Record,
) -> None:
    """Word for word, unless the CPU engine itself was undecided."""
    tokenizer = TextTokenizer.load(bundled)
    prompt = tokenizer.encode("Once upon a time, there was a", add_bos=True)
    story = request("a", prompt, 200, top_logprobs=0)
    wanted = generate(reference.of(bundled), story)["a"].tokens
    with loaded(engine_class, bundled, slots=2) as engine:
        output = generate(engine, story)["a"]
    found = reference.judge(bundled, prompt, output, TRAINED)
    for name, value in found.check(TRAINED).items():
        record_property(name, value)
    pairs = zip(wanted, output.tokens, strict=True)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(wanted))
    record_property("same_tokens", same)
    if same < len(wanted):
        scores = reference.scores(bundled, [*prompt, *wanted[: same + 1]])
        (_, best), (_, second) = scores[-1].top
        assert best - second <= TRAINED.margin
