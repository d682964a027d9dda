"""Benchmarks, each in a process of its own: `python -m tests.gpu.bench WHAT OUT …`

Failures of CUDA and memory that is left stay apart that way. Both sides of a comparison
are measured one after the other in one process, over the same files.
"""

import argparse
import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from neuron.engines import registry
from neuron.engines.base import Engine, LoadSpec
from neuron.models.inspect import inspect_model
from tests.gpu.bench.measure import NEW_TOKENS, Clock, decode_speed, prefill_time
from tests.gpu.bench.sides import CORTEX, PLAIN, Side, Sizes, cortex, plain, spec_for
from tests.gpu.bench.stack import load, running_stack, serving_environ, streamed
from tests.gpu.loads import megabytes, planned
from tests.gpu.models import weight_bytes
from tests.gpu.results import Decode, Memory, Notebook, Prefill, Stack

WARM_TOKENS: Final = 240
_PAGE: Final = 256
_LONGEST: Final = 4608
_PREFILLS: Final = 3
_MODES: Final = ("fp16", "q4")
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Measure:
    """How decoding is measured."""

    batches: Sequence[int]
    warm: int
    """Tokens that each stream gets first; the library settles within 205 steps."""
    tokens: int
    """Tokens that each gets under the clock."""
    sizes: Sizes
    """How the model is loaded: the same, whatever is measured of it."""

    def of(self, side: Side, model: str, batch: int, **more: str | None) -> Decode:
        """Speed of a batch; `more` are fields of the result."""
        decode_speed(side.streams, batch, new_tokens=self.warm, seed=1)
        speed, ttft = decode_speed(side.streams, batch, new_tokens=self.tokens, seed=2)
        return Decode.model_validate(
            {"model": model, "batch": batch, "tokens_per_s": speed, "ttft_ms": ttft}
            | more
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say."""
    args = _parser().parse_args(argv)
    notebook = Notebook(args.out)
    engine = registry.engine_class(args.engine)
    sizes = sizes_for(args.model, args.slots or max(args.batches))
    measure = Measure(args.batches, args.warm, args.tokens, sizes)
    match args.what:
        case "compare":
            compare(notebook, engine, args.model, args.prompts, measure)
        case "lever":
            lever(notebook, engine, args.model, args.changed, measure)
        case "memory":
            memory(notebook, engine, args.model)
        case _:
            asyncio.run(stack(notebook, args.engine, args.model, measure))
    return 0


def _parser() -> argparse.ArgumentParser:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser("tests.gpu.bench", description=__doc__)
    parser.add_argument("what", choices=("compare", "lever", "memory", "stack"))
    parser.add_argument("out", type=Path, help="where the findings go")
    parser.add_argument("model", type=Path, help="a model's folder")
    parser.add_argument("--engine", default="exllamav2", choices=registry.names())
    parser.add_argument("--batches", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--prompts", type=numbers, default=[])
    parser.add_argument("--slots", type=int, help="default: the largest batch")
    parser.add_argument("--warm", type=int, default=WARM_TOKENS)
    parser.add_argument("--tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--changed", help="what the environment says of a lever")
    return parser


def sizes_for(folder: Path, slots: int) -> Sizes:
    """Room for that many streams and for a long prompt."""
    longest = min(_LONGEST, inspect_model(folder, folder.name).context)
    # Three pages for each, so that nobody waits for one.
    return Sizes(slots, longest, max(3 * _PAGE * slots, 2 * longest))


def compare(
    notebook: Notebook,
    engine: type[Engine],
    folder: Path,
    prompts: Sequence[int],
    measure: Measure,
) -> None:
    """exllamav2's own generator, freed again, and then ours."""
    notebook.add(weight_bytes={folder.name: weight_bytes(folder)})
    for name, open_side in _sides(engine, folder, measure.sizes):
        try:
            with open_side as side:
                _measure_side(notebook, side, folder.name, prompts, measure)
        except Exception as error:  # the other side may do better
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)  # they hold its memory
            notebook.add(notes=[f"{folder.name}, {name}: {error}"])


def _measure_side(
    notebook: Notebook, side: Side, model: str, prompts: Sequence[int], measure: Measure
) -> None:
    notebook.add(load=[side.load])
    engine = side.load.engine
    for batch in measure.batches:
        notebook.add(decode=[measure.of(side, model, batch, engine=engine)])
    for tokens in prompts:
        notebook.add(prefill=[_prefill(side, model, engine, tokens)])


def _sides(
    engine: type[Engine], folder: Path, sizes: Sizes
) -> Iterator[tuple[str, AbstractContextManager[Side]]]:
    spec = spec_for(engine, folder, sizes)
    backend = _start(engine, spec)
    if backend is None:  # where there is no GPU, both sides are the same
        yield PLAIN, cortex(engine, spec, name=PLAIN)
    else:
        yield PLAIN, plain(backend, folder, sizes)
    yield CORTEX, cortex(engine, spec)


def _start(engine: type[Engine], spec: LoadSpec) -> Any:
    """Import the library and start CUDA, which is part of nobody's load."""
    if engine.name != "exllamav2":
        return None
    from neuron.engines.exllamav2.backend import load_backend
    from neuron.engines.exllamav2.loading.load import prepare_devices

    prepare_devices(spec)
    backend = load_backend()
    backend.torch.zeros(1, device="cuda")
    return backend


def _prefill(side: Side, model: str, engine: str, tokens: int) -> Prefill:
    prefill_time(side.streams, tokens, seed=1)
    times = [prefill_time(side.streams, tokens, seed=2 + n) for n in range(_PREFILLS)]
    return Prefill(model=model, tokens=tokens, engine=engine, ttft_ms=median(times))


def lever(
    notebook: Notebook,
    engine: type[Engine],
    folder: Path,
    changed: str,
    measure: Measure,
) -> None:
    """Ours with one lever changed; the environment says so already."""
    spec = spec_for(engine, folder, measure.sizes)
    _start(engine, spec)
    with cortex(engine, spec, changed=changed) as side:
        notebook.add(load=[side.load])
        for batch in measure.batches:
            found = measure.of(side, folder.name, batch, engine=CORTEX, changed=changed)
            notebook.add(decode=[found])


def memory(notebook: Notebook, engine: type[Engine], folder: Path) -> None:
    """What plans say and loads take; the first plan has nothing to learn from."""
    modes = _MODES if engine.name == "exllamav2" else (None,)
    for mode in modes:
        plan, spec = planned(
            engine, folder, cache_mode=mode, cache_tokens=128 * _PAGE, slots=16
        )
        made = engine()
        made.load(spec, lambda *_: None, lambda: False)
        took = made.stats().memory_bytes
        made.unload()
        if took is None or plan.need_bytes is None:
            raise RuntimeError(f"{folder.name}: what the load took cannot be told")
        found = Memory(
            model=folder.name, cache_mode=spec.cache_mode,
            planned_mib=megabytes(plan.need_bytes), measured_mib=megabytes(took),
        )  # fmt: skip
        notebook.add(memory=[found])


async def stack(
    notebook: Notebook, engine: str, folder: Path, measure: Measure
) -> None:
    """The streams of `compare`, through gateway, neuron and worker."""
    entry = {"engine": engine, **asdict(measure.sizes)}
    vocab = inspect_model(folder, folder.name).vocab_size
    with running_stack(folder, entry, serving_environ()) as gateway:
        await load(gateway.url, folder.name)
        for batch in measure.batches:

            def clock(tokens: int, seed: int, batch: int = batch) -> Awaitable[Clock]:
                return streamed(
                    gateway.url, folder.name, vocab, batch,
                    new_tokens=tokens, seed=seed,
                )  # fmt: skip

            await clock(measure.warm, 1)
            speed = await _speed(partial(clock, measure.tokens))
            found = Stack(model=folder.name, batch=batch, tokens_per_s=speed)
            notebook.add(stack=[found])


async def _speed(clock: Callable[[int], Awaitable[Clock]]) -> float:
    """Tokens/s; once more where one stream had ended before another began.

    Small models on a busy host are through in the time that a request takes to arrive.
    """
    for seed in range(2, 2 + _ATTEMPTS):
        try:
            return (await clock(seed)).result()[0]
        except RuntimeError:
            if seed == 1 + _ATTEMPTS:
                raise
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
