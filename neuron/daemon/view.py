"""Wire views of what the daemon knows."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from neuron.daemon.catalogue import Entry
from neuron.daemon.instance import Instance
from neuron.ipc import QUEUE_WAIT_BOUNDS_S
from neuron.protocol.types import (
    LoadOptions,
    Model,
    ModelLoad,
    ModelState,
    Servable,
)

if TYPE_CHECKING:
    from neuron.models.info import ModelInfo

_MIB: Final = 1024 * 1024


def model(entry: Entry, instance: Instance | None, memory: int | None) -> Model:
    """One model, loaded (`instance`) or not; `memory` in bytes as measured."""
    view = Model(
        id=entry.id,
        engine=entry.engine,
        servable=Servable(ok=entry.problem is None, reason=entry.problem),
    )
    if (info := entry.info) is not None:
        view.format = info.format
        view.bpw = round(info.bpw, 3)
        view.architecture = info.architecture
        view.parameters = info.parameters
        view.context = info.context
        view.weight_bytes = info.weight_bytes
        view.kv_bytes_per_token = info.kv_bytes_per_token
        options = LoadOptions() if instance is None else instance.plan
        view.capabilities = _capabilities(info, options)
    if instance is not None:
        _describe(view, instance, memory)
    return view


def _capabilities(info: "ModelInfo", options: LoadOptions) -> list[str]:
    """What requests may ask of it as it is loaded, whichever engine serves it."""
    # NumPy comes with models and engines, and the daemon listens before that.
    from neuron.engines.seeing import seen

    known = ["completions", "chat", "logprobs", "structured_output"]
    if info.has_chat_template:
        known += ["chat_template", "tools"]
    if info.thinks:
        known.append("reasoning")
    if seen(info, options) is not None:
        known.append("vision")
    return known


def _describe(view: Model, instance: Instance, memory: int | None) -> None:
    plan = instance.plan
    view.state = instance.state
    view.engine = plan.engine
    view.max_seq_len = plan.max_seq_len
    view.slots = plan.slots
    view.cache_mode = plan.cache_mode
    view.devices = plan.devices
    view.memory_mb = None if memory is None else memory // _MIB
    view.progress = instance.progress
    view.error = instance.error
    view.loaded_at = instance.loaded_at
    if instance.state is ModelState.FAILED:
        view.servable = Servable(ok=False, reason=instance.error)


def load(instance: Instance) -> ModelLoad:
    """How busy one instance is."""
    stats = instance.stats
    view = ModelLoad(
        id=instance.id,
        pid=instance.pid,
        slots=instance.plan.slots,
        heartbeat_age_s=instance.heartbeat_age,
    )
    if stats is not None:
        view.in_flight = stats.in_flight
        view.queued = stats.queued
        view.rejections = stats.rejections
        view.queue_waits = _cumulative(stats.queue_waits)
        view.queue_waited_s = stats.queue_waited_s
        view.unparsed_calls = stats.unparsed_calls
        view.kv_pages_used = stats.kv_pages_used
        view.kv_pages_total = stats.kv_pages_total
        view.decode_tok_s = stats.decode_tok_s
        view.prefill_tok_s = stats.prefill_tok_s
        view.steps = stats.steps
    return view


def _cumulative(counts: Sequence[int]) -> dict[str, int]:
    """Counts between bounds as Prometheus has them: up to each bound."""
    bounds = [*map(str, QUEUE_WAIT_BOUNDS_S), "+Inf"]
    return dict(zip(bounds, accumulate(counts), strict=False))
