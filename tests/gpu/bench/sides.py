"""A model loaded by either side, for as long as it is measured."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from neuron.engines.base import Engine, LoadSpec
from tests.gpu.bench.measure import Streams
from tests.gpu.bench.streams import EngineStreams, PlainStreams
from tests.gpu.loads import planned
from tests.gpu.models import file_bytes
from tests.gpu.results import Load

PLAIN: Final = "plain"
CORTEX: Final = "cortex"
_BEFORE_WARM_UP: Final = ("weights", "draft", "cache")
"""Stages of a load; what comes after them is warming up."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a model is loaded for."""

    slots: int
    max_seq_len: int
    cache_tokens: int


@dataclass(frozen=True, slots=True)
class Side:
    """One side, ready."""

    streams: Streams
    load: Load


def spec_for(engine: type[Engine], folder: Path, sizes: Sizes) -> LoadSpec:
    """The load that our engine plans; the other side uses the same GPU.

    Raises:
        RuntimeError: it does not fit.
    """
    plan, spec = planned(engine, folder, **asdict(sizes))
    if not plan.fits:
        raise RuntimeError(f"{folder.name}: {plan.reason}")
    return spec


@contextmanager
def cortex(
    engine: type[Engine],
    spec: LoadSpec,
    *,
    name: str = CORTEX,
    changed: str | None = None,
) -> Iterator[Side]:
    """Our engine, behind its interface; `name` and `changed` are for the findings."""
    made = engine()
    loaded_by = began = perf_counter()

    def follow(stage: str, _done: int, _total: int) -> None:
        nonlocal loaded_by
        if stage in _BEFORE_WARM_UP:
            loaded_by = perf_counter()

    made.load(spec, follow, lambda: False)
    ready = perf_counter()
    try:
        yield Side(
            EngineStreams(made, spec.info.vocab_size),
            Load(
                model=spec.info.id,
                engine=name,
                changed=changed,
                seconds=ready - began,
                gigabytes=file_bytes(spec.info.path) / 1e9,
                warm_up_s=ready - loaded_by,
            ),
        )
    finally:
        made.unload()


@contextmanager
def plain(backend: Any, folder: Path, sizes: Sizes) -> Iterator[Side]:
    """exllamav2 and nothing else, as its documentation loads and drives it.

    Its attention is the one that this host has; without any its generator has no
    batches at all.

    Args:
        backend: the imported library, before our engine has loaded anything.
        folder: the model.
        sizes: as our side's.
    """
    torch, library = backend.torch, backend.exllamav2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as it does itself when it is imported
    began = perf_counter()
    config = library.ExLlamaV2Config(str(folder))
    config.max_seq_len = sizes.max_seq_len
    config.arch_compat_overrides(quiet=True)
    model = library.ExLlamaV2(config)
    cache = library.ExLlamaV2Cache(model, max_seq_len=sizes.cache_tokens, lazy=True)
    model.load_autosplit(cache)
    tokenizer = library.ExLlamaV2Tokenizer(config)
    generator = library.generator.ExLlamaV2DynamicGenerator(
        model=model, cache=cache, tokenizer=tokenizer, max_batch_size=sizes.slots
    )
    loaded_by = perf_counter()
    generator.warmup()
    torch.cuda.synchronize()
    ready = perf_counter()
    load = Load(
        model=folder.name,
        engine=PLAIN,
        seconds=ready - began,
        gigabytes=file_bytes(folder) / 1e9,
        warm_up_s=ready - loaded_by,
    )
    streams = PlainStreams(library.generator, generator, config.vocab_size)
    try:
        yield Side(streams, load)
    finally:
        model.unload()
        streams.close()
        del model, cache, generator, tokenizer, config
        gc.collect()
        torch.cuda.empty_cache()
        torch.set_num_threads(threads)
