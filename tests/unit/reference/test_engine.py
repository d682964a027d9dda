"""The life of requests: queue, prefill, decode, end; and of a loaded engine."""

import threading
from pathlib import Path

import numpy as np
import pytest

from neuron.engines.base import (
    EngineError,
    Finished,
    LoadCancelledError,
    PrefillProgress,
    SamplingParams,
    Started,
    TokenEvent,
)
from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.engine import ReferenceEngine
from neuron.engines.reference.scheduler import CHUNK
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.reference.support import (
    Outputs,
    generate,
    info_of,
    loaded,
    request,
    spec_of,
    tiny,
)

PROMPT = tuple(range(3, 23))


def test_events_of_a_request_in_order(engine: ReferenceEngine) -> None:
    engine.submit(request("a", PROMPT, 3))
    events = []
    while engine.has_work():
        events += engine.step()
    kinds = [type(event) for event in events]
    assert kinds == [Started, PrefillProgress, *[TokenEvent] * 3, Finished]
    assert events[0] == Started("a", 0)
    assert events[1] == PrefillProgress("a", 20, 20)
    assert events[-1] == Finished("a", "length")


def test_stop_id_is_emitted_and_ends_the_request(engine: ReferenceEngine) -> None:
    free = generate(engine, request("a", PROMPT, 12))["a"]
    stop = free.tokens[4]
    first = free.tokens.index(stop)
    stopped = generate(engine, request("a", PROMPT, 12, stop_ids=frozenset({stop})))
    assert stopped["a"].tokens == free.tokens[: first + 1]
    assert stopped["a"].reason == "stop"


def test_stop_ids_wait_for_min_new_tokens(engine: ReferenceEngine) -> None:
    stop = generate(engine, request("a", PROMPT, 1))["a"].tokens[0]
    late = request("a", PROMPT, 9, stop_ids=frozenset({stop}), min_new_tokens=5)
    output = generate(engine, late)["a"]
    assert stop not in output.tokens[:5]
    assert len(output.tokens) >= 5


def test_log_probabilities_only_where_asked_for(engine: ReferenceEngine) -> None:
    outputs = generate(
        engine,
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
    assert chosen.chosen == top.chosen < 0


def test_long_prompt_goes_in_chunks_while_others_decode(
    engine: ReferenceEngine,
) -> None:
    outputs = Outputs()
    engine.submit(request("short", PROMPT, 30))
    outputs.step(engine)
    engine.submit(request("long", [5] * (2 * CHUNK + 10), 4))
    produced = []
    while not outputs.get("long") or not outputs["long"].tokens:
        before = len(outputs["short"].tokens)
        outputs.step(engine)
        produced.append(len(outputs["short"].tokens) - before)
    assert outputs["long"].prefilled == [CHUNK, 2 * CHUNK, 2 * CHUNK + 10]
    assert produced == [1, 1, 1]


def test_short_prompts_share_a_step(engine: ReferenceEngine) -> None:
    for name in "abc":
        engine.submit(request(name, (*PROMPT, ord(name) % 90), 4))
    outputs = Outputs()
    outputs.step(engine)
    assert [len(outputs[name].tokens) for name in "abc"] == [1, 1, 1]


def test_requests_start_in_the_order_they_came(engine: ReferenceEngine) -> None:
    names = [str(number) for number in range(9)]
    for name in names:
        engine.submit(request(name, (*PROMPT, int(name)), 3 + int(name) % 4))
    started, running = [], 0
    while engine.has_work():
        for event in engine.step():
            if isinstance(event, Started):
                started.append(event.id)
                running += 1
            running -= isinstance(event, Finished)
        assert running == engine.stats().running <= 4
        assert running + engine.stats().waiting <= 9
    assert started == names


def test_a_request_waits_for_pages_and_is_not_overtaken(long_folder: Path) -> None:
    with loaded(long_folder, slots=4, cache_tokens=8 * PAGE) as engine:
        engine.submit(request("a", PROMPT, 3 * PAGE))
        engine.submit(request("big", range(4 * PAGE), PAGE))
        engine.submit(request("small", PROMPT, 2))
        turns = []
        while engine.has_work():
            turns += [
                (type(event), event.id)
                for event in engine.step()
                if isinstance(event, Started | Finished)
            ]
        assert turns == [
            (Started, "a"),
            (Finished, "a"),
            (Started, "big"),
            (Started, "small"),
            (Finished, "small"),
            (Finished, "big"),
        ]


def test_cancelled_in_queue_prefill_and_decode(engine: ReferenceEngine) -> None:
    names = ["decoding", "prefilling", "queued", "left"]
    outputs = Outputs()
    engine.submit(request(names[0], PROMPT, 50))
    outputs.step(engine)
    engine.submit(request(names[1], [7] * (3 * CHUNK), 5))
    engine.submit(request(names[2], PROMPT, 5))
    engine.submit(request(names[3], PROMPT, 5))
    outputs.step(engine)
    assert outputs["prefilling"].prefilled == [CHUNK]
    for name in names[:3]:
        engine.cancel(name)
    engine.cancel("no such request")
    assert {event.id for event in outputs.step(engine)} == {"left"}
    outputs.run(engine)
    assert outputs["left"].reason == "length"
    assert outputs["decoding"].reason is outputs["prefilling"].reason is None
    assert "queued" not in outputs
    assert engine.stats().kv_pages_used == 0


def test_prefix_is_reused(engine: ReferenceEngine) -> None:
    shared = list(range(3 * PAGE))
    first = generate(engine, request("a", [*shared, 60, 61]))["a"]
    second = generate(engine, request("b", [*shared, 70, 71]))["b"]
    assert (first.cached, second.cached) == (0, 3 * PAGE)
    other = generate(engine, request("c", [1, *shared]))["c"]
    assert other.cached == 0
    stats = engine.stats()
    assert stats.cached_tokens == 3 * PAGE
    assert stats.prompt_tokens == 2 * (3 * PAGE + 2) + 3 * PAGE + 1


def test_a_whole_prompt_in_the_cache_still_computes_its_last_token(
    engine: ReferenceEngine,
) -> None:
    prompt = list(range(2 * PAGE))
    first = generate(engine, request("a", prompt))["a"]
    again = generate(engine, request("b", prompt))["b"]
    assert again.cached == PAGE
    assert again.tokens == first.tokens


def test_prefix_is_shared_between_running_requests(engine: ReferenceEngine) -> None:
    shared = list(range(4 * PAGE))
    for name in "abcd":
        engine.submit(request(name, [*shared, ord(name) % 90], PAGE - 1))
    outputs = Outputs()
    outputs.step(engine)
    cached = [outputs[name].cached for name in "abcd"]
    assert cached == [0, 4 * PAGE, 4 * PAGE, 4 * PAGE]
    assert engine.stats().kv_pages_used == 4 + 4
    outputs.run(engine)
    assert engine.stats().kv_pages_used == 0


def test_seed_decides_and_its_absence_does_not(engine: ReferenceEngine) -> None:
    def tokens(seed: int | None) -> list[int]:
        sampling = SamplingParams(temperature=1.5, seed=seed)
        return generate(engine, request("a", PROMPT, 25, sampling=sampling))["a"].tokens

    assert tokens(5) == tokens(5)
    assert tokens(5) != tokens(6)
    assert tokens(None) != tokens(None)
    assert tokens(-1) == tokens(-1)


def test_stats_count(engine: ReferenceEngine) -> None:
    assert engine.stats().kv_pages_total == 4 * 640 // PAGE
    generate(engine, request("a", PROMPT, 6))
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.generated_tokens) == (0, 0, 6)
    assert stats.steps == 6
    assert stats.memory_bytes
    assert not engine.has_work()


def test_stats_from_another_thread_while_running(engine: ReferenceEngine) -> None:
    over = threading.Event()
    problems: list[Exception] = []

    def watch() -> None:
        try:
            while not over.is_set():
                stats = engine.stats()
                assert 0 <= stats.kv_pages_used <= stats.kv_pages_total
        except Exception as error:
            problems.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        generate(engine, *(request(str(i), (*PROMPT, i), 20) for i in range(12)))
    finally:
        over.set()
        watcher.join()
    assert not problems


def test_unloaded_engine_has_nothing_and_loads_again(long_folder: Path) -> None:
    engine = ReferenceEngine()
    assert not engine.has_work()
    assert engine.stats().memory_bytes is None
    with pytest.raises(EngineError, match="no model is loaded"):
        engine.submit(request("a", PROMPT))
    spec = spec_of(long_folder, slots=1)
    for _ in range(2):
        engine.load(spec, lambda *_: None, lambda: False)
        with pytest.raises(EngineError, match="loaded already"):
            engine.load(spec, lambda *_: None, lambda: False)
        engine.submit(request("a", PROMPT))
        engine.step()
        engine.unload()
        engine.cancel("a")
        assert not engine.has_work()


def test_load_says_how_far_it_is_and_can_be_cancelled(long_folder: Path) -> None:
    spec = spec_of(long_folder)
    seen: list[tuple[str, int, int]] = []
    engine = ReferenceEngine()
    engine.load(spec, lambda *step: seen.append(step), lambda: False)
    engine.unload()
    total = 2 + 7 * info_of(long_folder).layers
    assert seen == [("weights", done, total) for done in range(total + 1)]
    with pytest.raises(LoadCancelledError):
        engine.load(spec, lambda *_: None, lambda: True)
    calls = iter([False] * 5 + [True] * 99)
    with pytest.raises(LoadCancelledError):
        engine.load(spec, lambda *_: None, lambda: next(calls))
    engine.load(spec, lambda *_: None, lambda: False)
    engine.unload()


def test_a_request_that_breaks_the_numbers_fails_alone(tmp_path: Path) -> None:
    model = tiny("llama")
    contents = tensors(model)
    contents["model.embed_tokens.weight"][90] = np.inf
    config = model.config | {"max_position_embeddings": 640}
    folder = write_folder(tmp_path / "model", config, contents)
    broken = [*range(30), 90, *[5] * (2 * CHUNK)]
    # The biases keep the one token that breaks everything from being generated.
    sampling = SamplingParams(temperature=0, logit_bias={90: -1000.0})
    with loaded(folder, slots=3, cache_tokens=30 * PAGE) as engine:
        good = request("a", PROMPT, 40, sampling=sampling)
        wanted = generate(engine, good)["a"].tokens
        for prompt in (broken, broken[:31], [90]):
            long = request("long", range(60), 20, sampling=sampling)
            outputs = generate(engine, long, request("broken", prompt, 20), good)
            assert str(outputs["broken"].error) == "the model's output is not finite"
            assert outputs["broken"].tokens == []
            assert outputs["a"].tokens == wanted
            others = [
                request(str(i), [i, *PROMPT], 100, sampling=sampling) for i in range(6)
            ]
            reasons = {each.reason for each in generate(engine, *others).values()}
            assert reasons == {"length"}
        assert engine.stats().kv_pages_used == 0
