"""Requests whose output is constrained, with constraints that are easy to foresee."""

import threading
from collections.abc import Collection, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from neuron.engines.base import EngineError, SamplingParams, TokenConstraint
from neuron.engines.reference.engine import ReferenceEngine
from tests.unit.reference.support import Outputs, generate, request

PROMPT = tuple(range(3, 23))
VOCAB = 96
END = 2


class Steps:
    """Allows for one set of tokens after the other; it is complete after the last."""

    def __init__(
        self,
        steps: Sequence[Collection[int]],
        *,
        may_end_from: int | None = None,
        free_from: int | None = None,
        bits: int = 128,
    ) -> None:
        self._steps = steps
        self._free_from = free_from
        self._may_end_from = len(steps) if may_end_from is None else may_end_from
        self._bits = bits
        self.accepted: list[int] = []

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({END})

    def mask(self) -> NDArray[np.int32]:
        allowed = np.zeros(self._bits, np.uint8)
        done = len(self.accepted)
        if done < len(self._steps):
            allowed[list(self._steps[done])] = 1
        if self.may_end():
            allowed[END] = 1
        return np.packbits(allowed, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)

    def may_end(self) -> bool:
        return len(self.accepted) >= self._may_end_from

    def is_finished(self) -> bool:
        return END in self.accepted or len(self.accepted) >= len(self._steps)

    def is_free(self) -> bool:
        return self._free_from is not None and len(self.accepted) >= self._free_from


SAMPLINGS = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=2, seed=1),
    SamplingParams(temperature=1, top_k=3, seed=2),
    SamplingParams(temperature=1, top_p=0.1, min_p=0.5, seed=3),
    SamplingParams(temperature=0, logit_bias={40: 100.0}, presence_penalty=2),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_only_what_is_allowed(
    engine: ReferenceEngine, sampling: SamplingParams
) -> None:
    steps = [{5, 6, 7}, {88, 89}, {9}, set(range(10, 30))]
    constraint = Steps(steps)
    output = generate(
        engine, request("a", PROMPT, 20, sampling=sampling, constraint=constraint)
    )["a"]
    assert len(output.tokens) == 4
    assert all(token in step for token, step in zip(output.tokens, steps, strict=True))
    assert output.reason == "stop"
    assert constraint.accepted == output.tokens


def test_likeliest_of_those_allowed(engine: ReferenceEngine) -> None:
    free = generate(engine, request("a", PROMPT, 1, top_logprobs=VOCAB))["a"]
    assert free.logprobs[0] is not None
    order = [token for token, _ in free.logprobs[0].top]
    for rank in (0, 1, 40):
        among = Steps([set(order[rank:])])
        chosen = generate(
            engine, request("a", PROMPT, 5, constraint=among, top_logprobs=0)
        )["a"]
        assert chosen.tokens == [order[rank]]
        assert chosen.logprobs[0] is not None
        # Log-probabilities are the model's own, whatever was allowed.
        assert chosen.logprobs[0].chosen == free.logprobs[0].top[rank][1]


def test_bias_and_penalties_come_before(engine: ReferenceEngine) -> None:
    biased = SamplingParams(temperature=0, logit_bias={40: 50.0, 50: 100.0})
    constraint = Steps([range(3, 50)])
    output = generate(
        engine, request("a", PROMPT, 5, sampling=biased, constraint=constraint)
    )["a"]
    assert output.tokens == [40]


def test_stop_ids_only_where_the_output_may_end(engine: ReferenceEngine) -> None:
    stops = frozenset({30, END})
    likely = SamplingParams(temperature=0, logit_bias={30: 100.0})
    constraint = Steps([range(3, 90)] * 9, may_end_from=4)
    output = generate(
        engine,
        request(
            "a", PROMPT, 20, sampling=likely, stop_ids=stops, constraint=constraint
        ),
    )["a"]
    assert 30 not in output.tokens[:4]
    assert output.tokens[4:] == [30]
    assert output.reason == "stop"
    assert constraint.accepted == output.tokens[:4]


def test_min_new_tokens_wait_with_every_end(engine: ReferenceEngine) -> None:
    likely = SamplingParams(temperature=0, logit_bias={END: 100.0, 30: 50.0})
    for stops in (frozenset({END}), frozenset({30, END})):
        output = generate(
            engine,
            request(
                "a",
                PROMPT,
                20,
                sampling=likely,
                stop_ids=stops,
                min_new_tokens=6,
                constraint=Steps([range(31, 90)] * 9, may_end_from=0),
            ),
        )["a"]
        assert not {END, 30} & {*output.tokens[:6]}
        assert output.tokens[6:] == [END]
        assert output.reason == "stop"


@pytest.mark.parametrize("stops", [frozenset[int](), frozenset({30})])
def test_an_end_that_does_not_stop_waits_until_nothing_else_may_come(
    engine: ReferenceEngine, stops: frozenset[int]
) -> None:
    likely = SamplingParams(temperature=0, logit_bias={END: 100.0})
    constraint = Steps([[7, 8]] * 6, may_end_from=2)
    output = generate(
        engine,
        request(
            "a", PROMPT, 20, sampling=likely, constraint=constraint, stop_ids=stops
        ),
    )["a"]
    assert (len(output.tokens), output.reason) == (6, "stop")
    assert set(output.tokens) <= {7, 8} | stops


def test_a_complete_output_ends_before_min_new_tokens(engine: ReferenceEngine) -> None:
    short = Steps([{5}, {6}])
    output = generate(
        engine, request("a", PROMPT, 20, min_new_tokens=9, constraint=short)
    )["a"]
    assert (output.tokens, output.reason) == ([5, 6], "stop")
    only_end = Steps([{5}, ()], may_end_from=1)
    output = generate(
        engine,
        request(
            "a",
            PROMPT,
            20,
            min_new_tokens=9,
            stop_ids=frozenset({END}),
            constraint=only_end,
        ),
    )["a"]
    assert (output.tokens, output.reason) == ([5, END], "stop")


def test_stop_id_that_the_grammar_needs(engine: ReferenceEngine) -> None:
    output = generate(
        engine,
        request("a", PROMPT, 9, stop_ids=frozenset({6}), constraint=Steps([{5}, {6}])),
    )["a"]
    assert (output.tokens, output.reason) == ([5, 6], "stop")


def test_cut_by_max_new_tokens(engine: ReferenceEngine) -> None:
    output = generate(
        engine, request("a", PROMPT, 2, constraint=Steps([range(90)] * 5))
    )["a"]
    assert output.reason == "length"
    output = generate(
        engine, request("a", PROMPT, 2, constraint=Steps([range(90)] * 2))
    )["a"]
    assert output.reason == "stop"


class Broken(Steps):
    """Fails after a while, in one of its methods."""

    def __init__(self, where: str) -> None:
        super().__init__([range(3, 90)] * 9, may_end_from=9)
        self._where = where

    def _fail(self, where: str) -> None:
        if where == self._where and len(self.accepted) == 2:
            raise RuntimeError(f"no {where} today")

    def mask(self) -> NDArray[np.int32]:
        self._fail("mask")
        return super().mask()

    def accept(self, token_id: int) -> None:
        self._fail("accept")
        super().accept(token_id)

    def may_end(self) -> bool:
        self._fail("may_end")
        return super().may_end()


CONSTRAINTS: list[tuple[TokenConstraint, int, str]] = [
    (Broken("mask"), 2, "no mask today"),
    (Broken("accept"), 2, "no accept today"),
    (Broken("may_end"), 2, "no may_end today"),
    (Steps([{5}, ()], may_end_from=9), 1, "allows for no token"),
    (Steps([{5}], bits=64), 0, "a mask has 64 bits, the model 96 tokens"),
]


@pytest.mark.parametrize(("constraint", "count", "message"), CONSTRAINTS)
def test_a_constraint_that_fails_fails_its_request_alone(
    engine: ReferenceEngine, constraint: TokenConstraint, count: int, message: str
) -> None:
    other = generate(engine, request("b", PROMPT, 8))["b"]
    outputs = generate(
        engine,
        request("a", PROMPT, 8, constraint=constraint),
        request("b", PROMPT, 8),
    )
    assert len(outputs["a"].tokens) == count
    assert isinstance(outputs["a"].error, EngineError)
    assert outputs["a"].error.code == "constraint_failed"
    assert message in str(outputs["a"].error)
    assert not outputs["a"].error.fatal
    assert outputs["b"].tokens == other.tokens
    assert engine.stats().kv_pages_used == 0


class Slow(Steps):
    """The mask after `at` tokens waits, in another thread, until it is let go."""

    def __init__(self, at: int) -> None:
        super().__init__([range(3, 90)] * 9)
        self._at = at
        self.let_go = threading.Event()
        self.begun = threading.Event()

    def mask(self) -> NDArray[np.int32]:
        in_engine = threading.current_thread() is threading.main_thread()
        if len(self.accepted) == self._at and not in_engine:
            self.begun.set()
            self.let_go.wait()
        return super().mask()


class Endless(Steps):
    @property
    def end_ids(self) -> frozenset[int]:
        raise RuntimeError("no end today")


def test_a_constraint_that_cannot_be_begun_is_refused(engine: ReferenceEngine) -> None:
    with pytest.raises(EngineError, match="no end today"):
        engine.submit(request("a", PROMPT, 9, constraint=Endless([])))
    assert not engine.has_work()


def test_masks_are_made_before_they_are_needed(engine: ReferenceEngine) -> None:
    slow = Slow(1)
    engine.submit(request("a", PROMPT, 9, constraint=slow))
    outputs = Outputs()
    outputs.step(engine)
    assert len(outputs["a"].tokens) == 1
    assert slow.begun.wait(10)
    slow.let_go.set()
    assert outputs.run(engine)["a"].reason == "stop"


def test_cancelled_while_its_mask_is_made(engine: ReferenceEngine) -> None:
    slow = Slow(0)
    engine.submit(request("a", [5] * 600, 9, constraint=slow))
    outputs = Outputs()
    outputs.step(engine)
    assert slow.begun.wait(10)
    engine.cancel("a")
    engine.submit(request("b", PROMPT, 3))
    outputs.run(engine)
    slow.let_go.set()
    assert outputs["b"].reason == "length"
    assert not outputs["a"].tokens
    assert engine.stats().kv_pages_used == 0


def test_preempted_with_its_constraint(engine: ReferenceEngine) -> None:
    sampling = SamplingParams(temperature=1, seed=4)
    steps = [range(number, 90, 3) for number in range(3, 20)]

    def submit(name: str) -> None:
        engine.submit(
            request(name, PROMPT, 30, sampling=sampling, constraint=Steps(steps))
        )

    submit("a")
    whole = Outputs().run(engine)["a"]
    submit("b")
    outputs = Outputs()
    for _ in range(5):
        outputs.step(engine)
    assert engine._loaded is not None
    [sequence] = engine._loaded.scheduler._decoding
    engine._loaded.scheduler._preempt(sequence)
    outputs.run(engine)
    assert outputs["b"].tokens == whole.tokens
    assert outputs["b"].reason == "stop"


class Opening(Steps):
    """Allows for odd tokens, then for any; with `lets_go` it says so and wants to be
    asked no more."""

    def __init__(self, odd: int, *, lets_go: bool) -> None:
        steps = [range(3, VOCAB, 2)] * odd + [range(VOCAB)] * 90
        super().__init__(
            steps, may_end_from=odd, free_from=odd if lets_go else None, bits=VOCAB
        )

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset()

    def mask(self) -> NDArray[np.int32]:
        assert not self.is_free()
        return super().mask()

    def accept(self, token_id: int) -> None:
        assert not self.is_free()
        super().accept(token_id)

    def is_finished(self) -> bool:
        return False


@pytest.mark.parametrize("sampling", SAMPLINGS[:3])
@pytest.mark.parametrize("min_new_tokens", [0, 25])
def test_one_that_is_free_is_asked_no_more(
    engine: ReferenceEngine, sampling: SamplingParams, min_new_tokens: int
) -> None:
    outputs = []
    for lets_go in (False, True):
        constraint = Opening(3, lets_go=lets_go)
        asked = request("a", PROMPT, 40, sampling=sampling, top_logprobs=1,
                        constraint=constraint, stop_ids=frozenset(range(0, VOCAB, 8)),
                        min_new_tokens=min_new_tokens)  # fmt: skip
        outputs.append(generate(engine, asked)["a"])
        assert len(constraint.accepted) >= 3
        assert (len(constraint.accepted) == 3) == (
            lets_go or len(outputs[0].tokens) <= 4
        )
    held, freed = outputs
    assert freed.tokens == held.tokens
    assert freed.logprobs == held.logprobs
    assert freed.reason == held.reason
    assert all(token % 2 for token in freed.tokens[:3])
    assert len(freed.tokens) > 3
