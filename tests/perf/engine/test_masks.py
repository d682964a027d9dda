"""What grammars cost a step: `pytest -n 0 -s -m perf tests/perf/engine/test_masks.py`.

Masks are made in other threads while the model computes: `masks` is the time they take
there, all streams together; `in step` is what the step itself spends on constraints
(waiting for a mask, unpacking it, taking the token), and `share` its part of the step.
Medians over the steps in which every stream decodes.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from neuron.engines.base import GenerationRequest, SamplingParams, TokenConstraint
from neuron.engines.constrained import Constrained
from neuron.engines.reference.engine import ReferenceEngine
from neuron.text.grammar import GrammarCompiler, GrammarSpec
from neuron.text.output import OutputSyntax
from neuron.text.tools.constraint import constraint_for
from neuron.text.tools.hermes import Hermes
from neuron.text.tools.spec import ToolSpec
from tests.unit.reference.support import BUNDLED, loaded

P = ParamSpec("P")
T = TypeVar("T")

STREAMS: Final = (1, 4, 16)
GENERATED: Final = 100
WARM_UP: Final = 10
PROMPT: Final = tuple(range(300, 320))
WRITE = ToolSpec(
    "write",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
        "required": ["path", "text"],
        "additionalProperties": False,
    },
    strict=True,
)


def text_beside_strict_tools() -> GrammarSpec:
    syntax = OutputSyntax(tools=Hermes())
    tools = [replace(WRITE, name=f"write_{index}") for index in range(20)]
    spec = constraint_for(syntax, tools, "auto")
    assert spec is not None
    return spec


SPECS: Final = {
    "text": text_beside_strict_tools(),
    "any JSON": GrammarSpec("json_schema", {"type": "array", "minItems": 200}),
    "schema": GrammarSpec(
        "json_schema",
        {
            "type": "array",
            "minItems": 200,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 30},
                    "tags": {"type": "array", "items": {"enum": ["red", "blue"]}},
                    "size": {"type": "integer", "minimum": 0},
                },
                "required": ["name", "tags", "size"],
                "additionalProperties": False,
            },
        },
    ),
}


class Timed:
    """A constraint that counts what its masks take."""

    def __init__(self, constraint: TokenConstraint) -> None:
        self._constraint = constraint
        self.seconds: list[float] = []
        self.end_ids = frozenset[int]()
        self.accept = constraint.accept
        self.is_finished = constraint.is_finished
        self.is_free = constraint.is_free

    def mask(self) -> NDArray[np.int32]:
        start = perf_counter()
        mask = self._constraint.mask()
        self.seconds.append(perf_counter() - start)
        mask[0] &= ~4  # no end: every stream is to go on
        return mask

    def may_end(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, in milliseconds per step of all streams."""

    name: str
    streams: int
    step: float
    masks: float
    in_step: float

    def __str__(self) -> str:
        return (
            f"{self.name:12}{self.streams:8}{self.step:9.2f}{self.masks:8.2f}"
            f"{self.in_step:9.2f}{self.in_step / self.step:8.1%}"
        )


HEADER: Final = (
    f"{'':12}{'streams':>8}{'step ms':>9}{'masks':>8}{'in step':>9}{'share':>8}"
)


class Stopwatch:
    """Seconds spent in the methods it is wrapped around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, method: Callable[P, T]) -> Callable[P, T]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            start = perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += perf_counter() - start

        return timed


def measure(in_step: Stopwatch) -> list[Row]:
    compiler = GrammarCompiler(BUNDLED, [2], 8599)
    with loaded(BUNDLED, slots=max(STREAMS)) as engine:
        rows = [
            _row(engine, name, partial(compiler.compile, spec), streams, in_step)
            for name, spec in SPECS.items()
            for streams in STREAMS
        ]
    compiler.close()
    return rows


def _row(
    engine: ReferenceEngine,
    name: str,
    constraint: Callable[[], TokenConstraint],
    streams: int,
    in_step: Stopwatch,
) -> Row:
    constraints = [Timed(constraint()) for _ in range(streams)]
    for index, each in enumerate(constraints):
        sampling = SamplingParams(temperature=1, seed=index)
        engine.submit(
            GenerationRequest(str(index), PROMPT, GENERATED, sampling, constraint=each)
        )
    for _ in range(WARM_UP):
        engine.step()
    steps, shares = [], []
    while engine.stats().running == streams:
        in_step.seconds, start = 0.0, perf_counter()
        engine.step()
        steps.append(perf_counter() - start)
        shares.append(in_step.seconds)
    assert len(steps) > GENERATED // 2
    while engine.has_work():
        engine.step()
    masks = sum(float(np.median(each.seconds)) for each in constraints)
    step, within = float(np.median(steps)), float(np.median(shares))
    return Row(name, streams, 1e3 * step, 1e3 * masks, 1e3 * within)


@pytest.mark.perf
def test_share_of_masks_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    in_step = Stopwatch()
    for method in ("prepare", "allowed", "accept"):
        timed = in_step.wrap(getattr(Constrained, method))
        monkeypatch.setattr(Constrained, method, timed)
    rows = measure(in_step)
    sys.stdout.write("\n".join(["", HEADER, *map(str, rows), ""]))
    assert [row.streams for row in rows] == [*STREAMS] * len(SPECS)
    assert all(row.masks > 0 for row in rows)
