"""What a load needs on the GPUs and whether it fits, before any backend is imported."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuron.engines.base import EngineError, HostMemory
from neuron.engines.exllamav2.host import devices as gpus
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.loading.context import check_extension, longest_context
from neuron.engines.exllamav2.memory.adapters import read_adapters
from neuron.engines.exllamav2.memory.cache_modes import (
    CACHE_MODES,
    DEFAULT_MODE,
    PAGE,
    whole_pages,
)
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.drafting import check_draft, draft_tokens
from neuron.engines.exllamav2.memory.limits import limits_of
from neuron.engines.exllamav2.memory.measured import MeasurementFile, Measurements
from neuron.engines.exllamav2.memory.model import CONTEXT_BYTES
from neuron.engines.exllamav2.memory.requirements import Placed, Requirements, described
from neuron.engines.exllamav2.memory.tensor_parallel import check_tensor_parallel
from neuron.models.info import ModelInfo
from neuron.protocol.paths import state_dir
from neuron.protocol.types import LoadOptions, LoadPlan, LoadRequest

DEFAULT_SLOTS: Final = 16
_MIB: Final = 1 << 20
_CACHE_SHARE: Final = 0.5
"""Of what the rest leaves, a default cache takes at most this."""


def plan_load(
    engine: str,
    info: ModelInfo,
    request: LoadRequest,
    memory: HostMemory,
    draft: ModelInfo | None = None,
    *,
    levers: Levers | None = None,
    state: Path | None = None,
) -> LoadPlan:
    """Fill in defaults and add up what they take from each GPU.

    Args:
        engine: its name.
        info: the model.
        request: what is asked for.
        memory: free VRAM of each GPU.
        draft: the model that the request's `draft` names.
        levers: the engine's settings; the environment's where None.
        state: folder of what earlier loads took; the user's where None.

    Raises:
        EngineError: a field of the request cannot be honoured; `param` names it.
    """
    offer = _Offer.of(request, memory, MeasurementFile(state or state_dir()).read())
    load = _requirements(request, info, draft, offer, levers or Levers.read())
    if request.tensor_parallel:
        check_tensor_parallel(load.model, offer.devices)
        if load.adapters:
            raise _refused("loras", "adapters are not split over GPUs")
    chosen = offer.choose(load, exactly=request.devices is not None)
    plan = LoadPlan(
        **load.options.model_dump(),
        model=info.id,
        engine=engine,
        max_seq_len=load.max_seq_len,
        slots=load.slots,
        cache_mode=load.cache_mode,
        cache_tokens=load.cache_tokens,
        available_bytes=offer.available,
    )
    if chosen is None:
        _say_that_it_does_not_fit(plan, load.on_one(), offer)
    else:
        _say_where_it_goes(plan, *chosen, load, offer)
    return plan


@dataclass(frozen=True, slots=True)
class _Offer:
    """The GPUs that a load may use, best first."""

    devices: tuple[int, ...]
    free: tuple[int, ...]
    """Bytes free on each."""
    contexts: tuple[int, ...]
    """Bytes that CUDA takes on each for itself."""
    names: tuple[str, ...]
    measured: Measurements

    @classmethod
    def of(
        cls, request: LoadRequest, memory: HostMemory, measured: Measurements
    ) -> "_Offer":
        """
        Raises:
            EngineError: the request names a GPU that there is not.
        """
        usable = gpus.visible_to_operator(sorted(memory.vram_free))
        if request.devices is not None:
            devices = _named(request.devices, usable)
        else:
            devices = sorted(usable, key=lambda d: (-memory.vram_free[d], d))
        known = gpus.names()
        names = [known.get(device, "unknown GPU") for device in devices]
        return cls(
            tuple(devices),
            tuple(memory.vram_free[device] for device in devices),
            tuple(measured.context(name) or CONTEXT_BYTES for name in names),
            tuple(names),
            measured,
        )

    @property
    def available(self) -> int | None:
        return sum(self.free) if self.free else None

    @property
    def room(self) -> tuple[int, ...]:
        """What is left on each device when CUDA has started there."""
        return tuple(
            max(0, free - context)
            for free, context in zip(self.free, self.contexts, strict=True)
        )

    def choose(self, load: Requirements, *, exactly: bool) -> tuple[int, Placed] | None:
        """As few of the devices as hold the load, and where it goes on them.

        Args:
            load: what is to be placed.
            exactly: whether all devices are to be offered, because they were named.
        """
        every = len(self.devices)
        all_at_once = exactly or load.options.tensor_parallel
        for count in [every] if all_at_once else range(1, every + 1):
            if count and (placed := load.place(self.room[:count])) is not None:
                return count, placed
        return None


def _named(wanted: Sequence[int], usable: Sequence[int]) -> list[int]:
    for device in wanted:
        if device not in usable:
            there = ", ".join(map(str, usable)) or "none"
            raise _refused("devices", f"there is no GPU {device}; there are: {there}")
    if not wanted or len(set(wanted)) != len(wanted):
        raise _refused("devices", f"{list(wanted)} must name GPUs once each")
    return list(wanted)


def _requirements(
    request: LoadRequest,
    info: ModelInfo,
    draft: ModelInfo | None,
    offer: _Offer,
    levers: Levers,
) -> Requirements:
    model = described(info, "model")
    guesser = None if draft is None else described(draft, "draft")
    options = LoadOptions(**request.model_dump(include=set(LoadOptions.model_fields)))
    guesses = draft_tokens(options)
    if options.draft is not None and guesser is None:
        raise _refused("draft", f"there is no model '{options.draft}' to draft")
    check_extension(model, options)
    mode = _cache_mode(request, model, guesser)
    most = longest_context(model, options)
    if (request.max_seq_len or 0) > most:
        raise _refused(
            "max_seq_len",
            f"{request.max_seq_len} is over the model's {most}; rope_scale, rope_alpha "
            "and yarn_factor extend it",
        )

    def sized(max_seq_len: int, cache_tokens: int) -> Requirements:
        slots = request.slots or DEFAULT_SLOTS
        return Requirements(
            model,
            max_seq_len,
            slots,
            mode,
            cache_tokens,
            limits_of(max_seq_len, slots, guesses),
            options,
            guesser,
            adapters,
            levers.device_embedding,
            levers.cuda_graphs,
        )

    adapters = read_adapters(model, options.loras or ())
    smallest = sized(request.max_seq_len or min(most, PAGE), PAGE)
    load = sized(*_sizes(request, most, _room_for_tokens(smallest, offer)))
    if guesser is not None:
        check_draft(model, guesser, load.max_seq_len)
    options.draft_tokens = guesses or None
    return load


def _cache_mode(
    request: LoadRequest, model: Description, draft: Description | None
) -> str:
    name = request.cache_mode or DEFAULT_MODE
    mode = CACHE_MODES.get(name)
    if mode is None:
        raise _refused("cache_mode", f"{name!r} is not one of {', '.join(CACHE_MODES)}")
    for one in filter(None, (model, draft)):
        if (problem := mode.problem(one.info.head_dim)) is not None:
            raise _refused("cache_mode", f"{name} for '{one.info.id}': {problem}")
    return name


def _sizes(request: LoadRequest, most: int, room: int | None) -> tuple[int, int]:
    """(max_seq_len, cache_tokens); `room` is how many tokens a default cache holds."""
    longest = request.max_seq_len or most
    if room is not None and request.max_seq_len is None:
        longest = min(most, max(PAGE, request.cache_tokens or room))
    if request.cache_tokens is not None:
        return longest, whole_pages(request.cache_tokens)
    tokens = (request.slots or DEFAULT_SLOTS) * longest
    if room is not None:
        tokens = max(longest, min(tokens, room))
    return longest, whole_pages(tokens)


def _room_for_tokens(smallest: Requirements, offer: _Offer) -> int | None:
    """Tokens that a default cache may hold; None where no GPU is known."""
    if not offer.devices:
        return None
    base = smallest.on_one().needs[0].total
    room = offer.room[0] if base <= offer.room[0] else sum(offer.room)
    per_page = 0
    for one in filter(None, (smallest.model, smallest.draft)):
        memory = smallest.memory_of(one)
        layer = sum(
            memory.cache.mode.tensors(PAGE, one.sizes.kv_heads, one.sizes.head_dim)
        )
        shared = sum(
            memory.cache.mode.temporaries(PAGE, one.sizes.kv_heads, one.sizes.head_dim)
        )
        per_page += one.sizes.layers * layer + shared
    return max(1, int((room - base) * _CACHE_SHARE) // per_page) * PAGE


def _say_where_it_goes(
    plan: LoadPlan, count: int, placed: Placed, load: Requirements, offer: _Offer
) -> None:
    used = [at for at in range(count) if placed.needs[at].total]
    parts: Counter[str] = Counter()
    for at in used:
        parts.update(placed.needs[at].parts)
        parts["context"] += offer.contexts[at]
    needs = [placed.needs[at].total + offer.contexts[at] for at in used]
    took = offer.measured.load(load.key([offer.names[at] for at in used]), len(used))
    if took is not None:
        plan.measured_bytes = sum(took)
        needs = list(took)
        _explain(parts, plan.measured_bytes)
    plan.devices = [offer.devices[at] for at in used]
    plan.parts = dict(parts)
    plan.need_bytes = sum(needs)
    plan.device_bytes = dict(zip(plan.devices, needs, strict=True))
    plan.fits = all(
        need <= offer.free[at] for need, at in zip(needs, used, strict=True)
    )
    if not plan.fits:
        plan.reason = _shortage(plan.need_bytes, offer)


def _explain(parts: Counter[str], measured: int) -> None:
    """Let the parts add up to what was measured.

    Weights and cache are exact; contexts are learned, and passes are bounded.
    """
    for name in ("context", "activations", "logits", "scratch"):
        beyond = measured - parts.total()
        parts[name] = max(0, parts[name] + beyond)


def _say_that_it_does_not_fit(plan: LoadPlan, placed: Placed, offer: _Offer) -> None:
    context = offer.contexts[0] if offer.contexts else CONTEXT_BYTES
    plan.parts = {**placed.needs[0].parts, "context": context}
    plan.need_bytes = sum(plan.parts.values())
    plan.reason = _shortage(plan.need_bytes, offer)


def _shortage(need: int, offer: _Offer) -> str:
    if not offer.devices:
        return f"needs {need // _MIB} MiB of VRAM, and there is no GPU"
    free = ", ".join(
        f"{nbytes // _MIB} MiB on GPU {device}"
        for device, nbytes in zip(offer.devices, offer.free, strict=True)
    )
    return f"needs {need // _MIB} MiB of VRAM; free are {free}"


def _refused(param: str, reason: str) -> EngineError:
    return EngineError(f"{param}: {reason}", code="unsupported", param=param)
