"""How near the reference engine comes to bare matrix products over its own weights.

    python -m tests.perf.engine.throughput [MODEL_FOLDER]

The bare product is `x @ w` for every weight matrix of the model in turn, as many rows
as the engine has streams (decode) or prompt tokens (prefill), with the BLAS' own
threads and with one. Engine and bare products are measured alternately, so that both
see the same machine, and the best of several rounds counts.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from neuron.engines.base import (
    GenerationRequest,
    HostMemory,
    LoadSpec,
    SamplingParams,
    Started,
)
from neuron.engines.reference.config import read_config
from neuron.engines.reference.engine import ReferenceEngine
from neuron.engines.reference.weights import Layouts
from neuron.models.bundled import bundled_root
from neuron.models.inspect import inspect_model
from neuron.protocol.types import LoadRequest

STREAMS: Final = (1, 4, 16)
ROUNDS: Final = 4
REPEATS: Final = 5
"""Passes timed together."""
PROMPT: Final = 100
GENERATED: Final = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; rates in tokens per second over all streams."""

    phase: str
    streams: int
    engine: float
    bare: float
    bare_one_thread: float

    def __str__(self) -> str:
        share, single = self.engine / self.bare, self.engine / self.bare_one_thread
        return (
            f"{self.phase:8}{self.streams:8}{self.engine:12.0f}"
            f"{self.bare:12.0f} {share:5.0%}{self.bare_one_thread:14.0f} {single:5.0%}"
        )


HEADER: Final = (
    f"{'':8}{'streams':>8}{'engine tok/s':>12}{'bare tok/s':>12} {'share':>5}"
    f"{'in 1 thread':>14} {'share':>5}"
)


def measure(folder: Path) -> list[Row]:
    """Decode and prefill for each number of streams."""
    info = inspect_model(folder, folder.name)
    request = LoadRequest(model=info.id, slots=max(STREAMS))
    plan = ReferenceEngine.plan(info, request, HostMemory(None))
    assert plan.max_seq_len is not None
    assert plan.cache_tokens is not None
    engine = ReferenceEngine()
    spec = LoadSpec(
        info,
        max_seq_len=plan.max_seq_len,
        slots=max(STREAMS),
        cache_mode=str(plan.cache_mode),
        cache_tokens=plan.cache_tokens,
    )
    engine.load(spec, lambda *_: None, lambda: False)
    try:
        bare = BareProducts(folder)
        rows = []
        for streams in STREAMS:
            rows += _measure_streams(engine, bare, streams)
        return sorted(rows, key=lambda row: row.phase)
    finally:
        engine.unload()


class BareProducts:
    """Every weight matrix of a model, filled with noise."""

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        layouts = Layouts.of(config)
        random = np.random.default_rng(0)
        block = [layouts.qkv, layouts.o, layouts.gate_up, layouts.down]
        shapes = [(each.inputs, each.outputs) for each in block] * config.layers
        self._block = [random.random(shape, np.float32) for shape in shapes]
        self._head = random.random((config.hidden, config.vocab), np.float32)

    def seconds(self, rows: int, head_rows: int) -> float:
        """Of one pass, averaged over `REPEATS`."""
        pairs = [
            (np.ones((number, len(weight)), np.float32), weight)
            for weights, number in ((self._block, rows), ([self._head], head_rows))
            for weight in weights
        ]
        outputs = [
            np.empty((len(left), right.shape[1]), np.float32) for left, right in pairs
        ]
        start = perf_counter()
        for _ in range(REPEATS):
            for (left, right), output in zip(pairs, outputs, strict=True):
                np.matmul(left, right, out=output)
        return (perf_counter() - start) / REPEATS


def _measure_streams(
    engine: ReferenceEngine, bare: BareProducts, streams: int
) -> list[Row]:
    def bare_decode() -> float:
        return bare.seconds(streams, streams)

    def bare_prefill() -> float:
        return streams * bare.seconds(PROMPT, 1)

    best: dict[tuple[str, str], float] = {}

    def note(phase: str, what: str, seconds: Iterable[float]) -> None:
        best[phase, what] = min([*seconds, best.get((phase, what), np.inf)])

    for _ in range(ROUNDS):
        note("prefill", "engine", [_prefill(engine, streams)])
        note("decode", "engine", _decode(engine, streams))
        for phase, run in (("decode", bare_decode), ("prefill", bare_prefill)):
            note(phase, "bare", [run(), run()])
            with threadpool_limits(1):
                note(phase, "one thread", [run(), run()])
    return [
        Row(
            phase,
            streams,
            tokens / best[phase, "engine"],
            tokens / best[phase, "bare"],
            tokens / best[phase, "one thread"],
        )
        for phase, tokens in (("decode", streams), ("prefill", streams * PROMPT))
    ]


_fresh: Final = count(300)


def _submit(engine: ReferenceEngine, streams: int, wanted: int) -> None:
    for stream in range(streams):
        # The first token differs, so that nothing is found in the prefix cache.
        prompt = (next(_fresh), *range(301, 300 + PROMPT))
        greedy = SamplingParams(temperature=0)
        engine.submit(GenerationRequest(str(stream), prompt, wanted, greedy))


def _prefill(engine: ReferenceEngine, streams: int) -> float:
    """Seconds until every prompt has its first token, which is also its last."""
    _submit(engine, streams, 1)
    start = perf_counter()
    while engine.has_work():
        engine.step()
    return perf_counter() - start


def _decode(engine: ReferenceEngine, streams: int) -> Iterator[float]:
    """Seconds of a step with every stream decoding, averaged over `REPEATS`."""
    _submit(engine, streams, GENERATED)
    started = 0
    while started < streams:
        started += sum(isinstance(event, Started) for event in engine.step())
    while engine.has_work():
        start = perf_counter()
        for _ in range(REPEATS):
            engine.step()
        seconds = perf_counter() - start
        if engine.stats().running == streams:
            yield seconds / REPEATS


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    folder = Path(arguments[0]) if arguments else bundled_root() / "tinystories-15m"
    lines = [HEADER, *map(str, measure(folder))]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
