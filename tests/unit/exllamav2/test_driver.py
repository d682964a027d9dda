"""What the driver makes of exllamav2's generator: the semantics of every engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.base import (
    EngineError,
    Finished,
    GenerationRequest,
    PrefillProgress,
    SamplingParams,
    Started,
    TokenEvent,
)
from neuron.engines.exllamav2.levers import Levers
from neuron.text.tokenizer import TextTokenizer
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.torch_engine import GenerationDriver, driving, stretched
from tests.unit.reference.support import (
    BUNDLED,
    Output,
    Outputs,
    generate,
    loaded,
    request,
    tiny,
)
from tests.unit.reference.test_constraints import Steps

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 256
PROMPT = tuple(range(3, 23))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 1280 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 1280}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


@pytest.fixture
def driver(folder: Path) -> Iterator[GenerationDriver]:
    with driving(folder) as driver:
        yield driver


def story(text: str, name: str, count: int, **fields: Any) -> GenerationRequest:
    ids = TextTokenizer.load(BUNDLED).encode(text, add_bos=True)
    return request(name, ids, count, **fields)


def assert_close(output: Output, expected: Output) -> None:
    """The same tokens and reason; log-probabilities within 1e-3."""
    assert output.error is None
    assert output.tokens == expected.tokens
    assert output.reason == expected.reason
    assert output.scored_ids == expected.scored_ids
    pairs = [
        *zip(output.logprobs, expected.logprobs, strict=True),
        *zip(output.scores, expected.scores, strict=True),
    ]
    for ours, theirs in pairs:
        assert (ours is None) == (theirs is None)
        if ours is None or theirs is None:
            continue
        assert ours.chosen == pytest.approx(theirs.chosen, abs=1e-3)
        assert [value for _, value in ours.top] == pytest.approx(
            [value for _, value in theirs.top], abs=1e-3
        )


class TestAsTheReferenceEngine:
    """The same model computed by the other engine gives the same."""

    def test_stories(self) -> None:
        requests = [
            story("Once upon a time", "greedy", 90, top_logprobs=3),
            story("The dog", "scored", 60, prompt_logprobs=2),
            story("Lily had a red ball and", "short", 30, top_logprobs=0),
            story("Tom saw a cat", "sampled", 60,
                  sampling=SamplingParams(temperature=0.8, seed=7)),
            story("One day", "cut", 60,
                  sampling=SamplingParams(top_k=20, top_p=0.9, min_p=0.02, seed=3)),
            story("It was", "penalized", 60,
                  sampling=SamplingParams(temperature=0, repetition_penalty=1.2,
                                          frequency_penalty=0.3)),
            story("The end", "stopped", 80, stop_ids=frozenset({2})),
        ]  # fmt: skip
        with loaded(BUNDLED, slots=8) as reference:
            expected = generate(reference, *requests)
        with driving(BUNDLED, slots=8) as driver:
            outputs = generate(driver, *requests)
            alone = generate(driver, requests[0])
        assert outputs.keys() == expected.keys()
        for name, output in outputs.items():
            assert_close(output, expected[name])
        assert_close(alone["greedy"], expected["greedy"])

    def test_long_prompts_with_shared_beginnings(
        self, tmp_path: Path, folder: Path
    ) -> None:
        longer = stretched(BUNDLED, tmp_path / "longer", 1024)
        text = "Once upon a time there was a little dog. " * 60
        requests = [
            story(text, "first", 20),
            story(text + "It", "same", 20),
            story(text[: len(text) // 2], "half", 20),
        ]
        with loaded(longer, slots=4) as reference:
            expected = generate(reference, *requests)
        with driving(longer) as driver:
            outputs = generate(driver, *requests)
        for name, output in outputs.items():
            assert_close(output, expected[name])
        cached = [outputs[name].cached for name in ("first", "same", "half")]
        prompts = [len(each.prompt_ids) for each in requests]
        assert cached[0] == 0
        # The library finds a page's beginning, too.
        assert cached[1] is not None
        assert prompts[0] - 2 <= cached[1] <= prompts[0]
        assert cached[2] == prompts[2] - 1

    def test_constrained_output(self, folder: Path) -> None:
        steps = [{5, 6, 7}, {88, 89}, {9}, set(range(10, 30))]
        samplings = [
            SamplingParams(temperature=0),
            SamplingParams(temperature=2, seed=1),
            SamplingParams(temperature=0, logit_bias={40: 100.0}),
        ]
        with driving(folder) as driver, loaded(folder, slots=4) as reference:
            for sampling in samplings:
                ours, theirs = (
                    generate(
                        engine,
                        request("a", PROMPT, 20, sampling=sampling,
                                constraint=Steps(steps)),
                    )["a"]
                    for engine in (driver, reference)
                )  # fmt: skip
                assert ours.tokens == theirs.tokens
                assert ours.reason == theirs.reason == "stop"


def test_events_of_a_request_in_order(driver: GenerationDriver) -> None:
    driver.submit(request("a", PROMPT, 3))
    events = []
    while driver.has_work():
        events += driver.step()
    kinds = [type(event) for event in events]
    assert kinds == [Started, PrefillProgress, *[TokenEvent] * 3, Finished]
    assert events[0] == Started("a", 0)
    assert events[1] == PrefillProgress("a", 20, 20)
    assert events[-1] == Finished("a", "length")


def test_one_token_prompt_needs_no_prefill(driver: GenerationDriver) -> None:
    output = generate(driver, request("a", [5], 4))["a"]
    assert (output.cached, output.prefilled) == (0, [1])
    assert len(output.tokens) == 4


def test_stop_id_is_emitted_and_ends_the_request(driver: GenerationDriver) -> None:
    free = generate(driver, request("a", PROMPT, 12))["a"]
    stop = free.tokens[4]
    first = free.tokens.index(stop)
    stopped = generate(driver, request("a", PROMPT, 12, stop_ids=frozenset({stop})))
    assert stopped["a"].tokens == free.tokens[: first + 1]
    assert stopped["a"].reason == "stop"


def test_stop_ids_wait_for_min_new_tokens(driver: GenerationDriver) -> None:
    stop = generate(driver, request("a", PROMPT, 1))["a"].tokens[0]
    late = request("a", PROMPT, 9, stop_ids=frozenset({stop}), min_new_tokens=5)
    output = generate(driver, late)["a"]
    assert stop not in output.tokens[:5]
    assert len(output.tokens) >= 5


@pytest.mark.parametrize("on_device", [True, False])
def test_log_probabilities_only_where_asked_for(folder: Path, on_device: bool) -> None:
    with driving(folder, levers=Levers(device_sampling=on_device)) as driver:
        outputs = generate(
            driver,
            request("none", PROMPT, 2),
            request("chosen", PROMPT, 2, top_logprobs=0),
            request("top", PROMPT, 2, top_logprobs=3),
        )
    assert outputs["none"].logprobs == [None, None]
    chosen, top = outputs["chosen"].logprobs[0], outputs["top"].logprobs[0]
    assert chosen is not None
    assert chosen.top == ()
    assert top is not None
    assert len(top.top) == 3
    assert top.top[0] == (outputs["top"].tokens[0], top.chosen)
    assert chosen.chosen == pytest.approx(top.chosen, abs=1e-5)


def test_prompt_log_probabilities_need_no_output(driver: GenerationDriver) -> None:
    """And are computed anew although the prompt is in the cache."""
    prompt = [token % 90 for token in range(2 * PAGE + 40)]
    generate(driver, request("before", prompt, 1))
    scored = request("a", prompt, 0, prompt_logprobs=1)
    output = generate(driver, scored)["a"]
    assert (output.cached, output.reason, output.tokens) == (0, "length", [])
    assert output.scored_ids == prompt[1:]
    # What it computed is as good a cache as any.
    after = generate(driver, request("b", prompt, 1))["b"]
    assert after.cached == len(prompt) - 1


def test_prompt_log_probabilities_in_passes_as_long_as_their_logits(
    driver: GenerationDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As layers need that are split over GPUs."""
    prompt = [token % 90 for token in range(PAGE + 40)]
    scored = request("a", prompt, 2, prompt_logprobs=2)
    expected = generate(driver, scored)["a"]
    model = driver.generator.model
    monkeypatch.setattr(model, "tp_context", object())
    before = len(model.calls)
    found = generate(driver, scored)["a"]
    limit = model.config.max_output_len
    passes = [call.tokens for call in model.calls[before:] if call.tokens > 1]
    assert sum(passes) == len(prompt) - 1
    assert max(passes) == limit
    assert (found.tokens, found.scored_ids) == (expected.tokens, expected.scored_ids)
    for ours, theirs in zip(found.scores, expected.scores, strict=True):
        assert ours.chosen == pytest.approx(theirs.chosen, abs=1e-4)


def test_long_prompt_goes_in_chunks_while_others_decode(folder: Path) -> None:
    with driving(folder, levers=Levers(prefill_chunk=PAGE)) as driver:
        outputs = Outputs()
        driver.submit(request("short", PROMPT, 30))
        outputs.step(driver)
        driver.submit(request("long", [5] * (2 * PAGE + 10), 4))
        produced = []
        while not outputs.get("long") or not outputs["long"].tokens:
            before = len(outputs["short"].tokens)
            outputs.step(driver)
            produced.append(len(outputs["short"].tokens) - before)
    assert outputs["long"].prefilled == [PAGE, 2 * PAGE, 2 * PAGE + 10]
    assert produced == [1, 1, 1]


def test_an_idle_engine_prefills_in_larger_chunks(folder: Path) -> None:
    with driving(folder, levers=Levers(prefill_chunk=PAGE)) as driver:
        output = generate(driver, request("a", [5] * (3 * PAGE), 4))["a"]
    assert output.prefilled == [2 * PAGE, 3 * PAGE]  # 512 is what the model takes


def test_short_prompts_share_a_step(driver: GenerationDriver) -> None:
    for name in "abcd":
        driver.submit(request(name, (*PROMPT, ord(name) % 90), 4))
    outputs = Outputs()
    outputs.step(driver)
    assert [len(outputs[name].tokens) for name in "ab"] == [1, 1]
    assert "c" not in outputs  # two chunks' worth of launches are enough for a step
    outputs.step(driver)
    assert [len(outputs[name].tokens) for name in "abcd"] == [2, 2, 1, 1]


def test_requests_start_in_the_order_they_came(driver: GenerationDriver) -> None:
    names = [str(number) for number in range(9)]
    for name in names:
        driver.submit(request(name, (*PROMPT, int(name)), 3 + int(name) % 4))
    started, running = [], 0
    while driver.has_work():
        for event in driver.step():
            if isinstance(event, Started):
                started.append(event.id)
                running += 1
            running -= isinstance(event, Finished)
        assert running == driver.stats().running <= 4
        assert running + driver.stats().waiting <= 9
    assert started == names


def test_a_request_waits_for_pages_and_is_not_overtaken(folder: Path) -> None:
    with driving(folder, cache_tokens=4 * PAGE) as driver:
        driver.submit(request("a", PROMPT, PAGE))
        driver.submit(request("big", [7] * (3 * PAGE), 20))
        driver.submit(request("small", PROMPT, 2))
        turns = []
        while driver.has_work():
            turns += [
                (type(event), event.id)
                for event in driver.step()
                if isinstance(event, Started | Finished)
            ]
    assert [name for kind, name in turns if kind is Started] == ["a", "big", "small"]
    assert turns.index((Finished, "a")) < turns.index((Started, "big"))


def test_cancelled_in_queue_prefill_and_decode(folder: Path) -> None:
    with driving(folder, levers=Levers(prefill_chunk=PAGE)) as driver:
        names = ["decoding", "prefilling", "queued", "left"]
        outputs = Outputs()
        driver.submit(request(names[0], PROMPT, 50))
        outputs.step(driver)
        driver.submit(request(names[1], [7] * (3 * PAGE), 5))
        driver.submit(request(names[2], PROMPT, 5))
        driver.submit(request(names[3], PROMPT, 5))
        outputs.step(driver)
        assert outputs["prefilling"].prefilled == [PAGE]
        for name in names[:3]:
            driver.cancel(name)
        driver.cancel("no such request")
        assert {event.id for event in outputs.step(driver)} == {"left"}
        outputs.run(driver)
        assert outputs["left"].reason == "length"
        assert outputs["decoding"].reason is outputs["prefilling"].reason is None
        assert "queued" not in outputs
        assert driver.stats().kv_pages_used == 0


def test_what_a_cancelled_prefill_left_is_used(folder: Path) -> None:
    prompt = [token % 90 for token in range(3 * PAGE)]
    with driving(folder, levers=Levers(prefill_chunk=PAGE), chunk=PAGE) as driver:
        outputs = Outputs()
        driver.submit(request("a", prompt, 5))
        outputs.step(driver)
        driver.cancel("a")
        again = generate(driver, request("b", prompt, 5))["b"]
        fresh = generate(driver, request("c", [1, *prompt], 5))["c"]
    assert again.cached == PAGE
    assert fresh.cached == 0


def test_pages_are_shared_between_running_requests(driver: GenerationDriver) -> None:
    shared = [token % 90 for token in range(2 * PAGE)]
    for name in "abcd":
        driver.submit(request(name, [*shared, ord(name) % 90], 9))
    outputs = Outputs()
    for _ in range(3):
        outputs.step(driver)
    cached = [outputs[name].cached for name in "abcd"]
    assert cached == [0, 2 * PAGE, 2 * PAGE, 2 * PAGE]
    assert driver.stats().kv_pages_used == 2 + 4
    outputs.run(driver)
    assert driver.stats().kv_pages_used == 0


def test_output_is_found_again_as_a_prompt(driver: GenerationDriver) -> None:
    """The next turn of a conversation starts with the last one's answer."""
    first = generate(driver, request("a", PROMPT, 300))["a"]
    prompt = [*PROMPT, *first.tokens]
    again = generate(driver, request("b", [*prompt, 5], 3))["b"]
    assert again.cached == len(prompt) - 1


def test_seed_decides_and_its_absence_does_not(driver: GenerationDriver) -> None:
    def tokens(seed: int | None) -> list[int]:
        sampling = SamplingParams(temperature=1.5, seed=seed)
        return generate(driver, request("a", PROMPT, 25, sampling=sampling))["a"].tokens

    assert tokens(5) == tokens(5)
    assert tokens(5) != tokens(6)
    assert tokens(None) != tokens(None)
    assert tokens(-1) == tokens(-1)


def test_stats_count(driver: GenerationDriver) -> None:
    assert driver.stats().kv_pages_total == 4096 // PAGE
    generate(driver, request("a", PROMPT, 6))
    stats = driver.stats()
    assert (stats.running, stats.waiting, stats.generated_tokens) == (0, 0, 6)
    assert (stats.steps, stats.prompt_tokens, stats.cached_tokens) == (6, 20, 0)
    assert stats.memory_bytes
    assert not driver.has_work()


def test_an_id_in_use_is_refused(driver: GenerationDriver) -> None:
    driver.submit(request("a", PROMPT))
    with pytest.raises(EngineError, match="running already"):
        driver.submit(request("a", PROMPT))
    driver.step()
    with pytest.raises(EngineError, match="running already"):
        driver.submit(request("a", PROMPT))


def test_longest_request_fits(driver: GenerationDriver) -> None:
    output = generate(driver, request("a", [5] * 1240, 40))["a"]
    assert (len(output.tokens), output.reason) == (40, "length")
