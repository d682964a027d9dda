"""Planning and loading as the daemon and its worker do, without them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from neuron.daemon.hardware import read_meminfo
from neuron.engines.base import Engine, HostMemory, LoadSpec
from neuron.engines.exllamav2.host.devices import visible_to_operator
from neuron.models.inspect import inspect_model
from neuron.protocol.types import LoadOptions, LoadPlan, LoadRequest

_MIB: Final = 1 << 20


def host_memory() -> HostMemory:
    """What is free now."""
    return HostMemory(read_meminfo().get("MemAvailable"), _vram(lambda m: int(m.free)))


def used_vram() -> dict[int, int]:
    """Bytes in use on each GPU, by whomever."""
    return _vram(lambda memory: int(memory.used))


def _vram(read: Any) -> dict[int, int]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index)
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return {
            index: read(pynvml.nvmlDeviceGetMemoryInfo(handle))
            for index, handle in enumerate(handles)
        }
    finally:
        pynvml.nvmlShutdown()


def planned(
    engine: type[Engine], folder: Path, *, draft: Path | None = None, **fields: Any
) -> tuple[LoadPlan, LoadSpec]:
    """The plan for a model folder on one GPU, and the load that it says.

    Args:
        engine: whose plan.
        folder: the model.
        draft: folder of the model that guesses.
        fields: those of `LoadRequest`.
    """
    info = inspect_model(folder, folder.name)
    guesser = None if draft is None else inspect_model(draft, draft.name)
    name = None if draft is None else draft.name
    request = LoadRequest(model=info.id, draft=name, **fields)
    memory = host_memory()
    if engine.name == "exllamav2" and request.devices is None:
        request.devices = visible_to_operator(sorted(memory.vram_free))[:1] or None
    plan = engine.plan(info, request, memory, guesser)
    return plan, spec_of(plan, info, guesser)


def spec_of(plan: LoadPlan, info: Any, draft: Any = None) -> LoadSpec:
    """The load that a plan describes."""
    assert plan.max_seq_len is not None
    assert plan.slots is not None
    assert plan.cache_mode is not None
    assert plan.cache_tokens is not None
    return LoadSpec(
        info,
        plan.max_seq_len,
        plan.slots,
        plan.cache_mode,
        plan.cache_tokens,
        tuple(plan.devices),
        LoadOptions(**plan.model_dump(include=set(LoadOptions.model_fields))),
        draft,
    )


@contextmanager
def loaded(engine: type[Engine], folder: Path, **fields: Any) -> Iterator[Engine]:
    """An engine with the model loaded; `fields` as `planned` takes them."""
    plan, spec = planned(engine, folder, **fields)
    assert plan.fits, plan.reason
    made = engine()
    made.load(spec, lambda *_: None, lambda: False)
    try:
        yield made
    finally:
        made.unload()


def megabytes(nbytes: int) -> float:
    """MiB."""
    return nbytes / _MIB
