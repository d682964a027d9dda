"""The models of this neuron: who is loaded, who may be, and in what order."""

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuron.config import Limits
from neuron.daemon import view
from neuron.daemon.catalogue import Catalogue, Entry
from neuron.daemon.events import EventLog
from neuron.daemon.hardware import Hardware
from neuron.daemon.instance import Instance
from neuron.protocol.errors import (
    ApiError,
    model_not_found,
    shutting_down,
    unavailable,
)
from neuron.protocol.types import (
    LoadPlan,
    LoadRequest,
    Model,
    ModelLoad,
    ModelState,
    UnloadRequest,
    UnloadResult,
)

if TYPE_CHECKING:
    from neuron.engines.base import HostMemory

log = logging.getLogger(__name__)

_COUNTED: Final = {
    ModelState.READY: "loads",
    ModelState.RECOVERING: "recoveries",
    ModelState.FAILED: "failures",
}
_TOKENS: Final = (
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "accepted_draft_tokens",
    "rejected_draft_tokens",
)
_GONE: Final = (ModelState.UNLOADED, ModelState.FAILED)


class ModelManager:
    """Loads are single-flight per model and decided one at a time, so that two of them
    cannot count on the same memory."""

    def __init__(
        self,
        catalogue: Catalogue,
        hardware: Hardware,
        events: EventLog,
        limits: Limits,
        sockets: Path,
        log_level: str = "INFO",
    ) -> None:
        self._catalogue = catalogue
        self._hardware = hardware
        self._events = events
        self._limits = limits
        self._sockets = sockets
        self._log_level = log_level
        self._deciding = asyncio.Lock()
        self._instances: dict[str, Instance] = {}
        self._started = 0
        self._reached: Counter[tuple[str, ModelState]] = Counter()
        self.draining = False

    # Views.

    def models(self) -> list[Model]:
        """Everything on disk or loaded, by id."""
        entries = {**self._catalogue.entries}
        entries.update({i.id: i.entry for i in self._instances.values()})
        return [self.model(entries[model_id]) for model_id in sorted(entries)]

    def model(self, entry: Entry) -> Model:
        instance = self._instances.get(entry.id)
        memory = self._memory_of(instance) if instance else None
        return view.model(entry, instance, memory)

    def loads(self) -> list[ModelLoad]:
        """How busy every worker is."""
        return [view.load(i) for i in self._instances.values() if i.pid is not None]

    def counts(self) -> dict[str, dict[str, int]]:
        """Counters by name and model: since start, and of the running workers."""
        counts: dict[str, dict[str, int]] = {name: {} for name in _COUNTED.values()}
        for (model_id, state), count in self._reached.items():
            if state in _COUNTED:
                counts[_COUNTED[state]][model_id] = count
        for name in _TOKENS:
            counts[name] = {
                instance.id: value
                for instance in self._instances.values()
                if (value := getattr(instance.stats, name, None)) is not None
            }
        return counts

    def pids(self) -> Iterable[int]:
        return [i.pid for i in self._instances.values() if i.pid is not None]

    def _memory_of(self, instance: Instance) -> int | None:
        if instance.pid is None:
            return None
        if instance.plan.devices:
            return self._hardware.vram_of(instance.pid)
        return instance.rss_bytes

    # Load.

    async def plan(self, request: LoadRequest) -> LoadPlan:
        """What the load would need, and whether it fits now.

        Raises:
            ApiError: 404 or 422, naming what is wrong with the request.
        """
        entry = await self._catalogue.get(request.model)
        draft = await self._draft(request)
        memory = self._host_memory()
        return await asyncio.to_thread(_plan, entry, request, memory, draft)

    async def load(self, request: LoadRequest) -> tuple[Instance, bool]:
        """Begin or join the load; True where the model was loaded already.

        Raises:
            ApiError: it cannot be loaded, now or at all.
        """
        self._refuse_when_draining()
        async with self._deciding:
            instance = self._instances.get(request.model)
            if instance is not None and instance.state not in _GONE:
                return instance, _join(instance, request)
            entry = await self._catalogue.get(request.model)
            draft = await self._draft(request)
            await self._hardware.refresh()
            memory = self._host_memory()
            plan = await asyncio.to_thread(_plan, entry, request, memory, draft)
            await asyncio.to_thread(_require_engine, plan.engine)
            if not plan.fits:
                raise _does_not_fit(plan)
            self._refuse_when_draining()
            return self._begin(entry, request, plan, draft), False

    async def _draft(self, request: LoadRequest) -> Entry | None:
        """The model that is to draft.

        Raises:
            ApiError: there is none of that name, or it cannot be read.
        """
        if request.draft is None:
            return None
        try:
            entry = await self._catalogue.get(request.draft)
        except ApiError as error:
            raise dataclasses.replace(error, param="draft") from None
        if entry.info is None:
            reason = entry.problem or "it cannot be read"
            raise _unsupported(request.draft, reason, param="draft")
        return entry

    def _begin(
        self, entry: Entry, request: LoadRequest, plan: LoadPlan, draft: Entry | None
    ) -> Instance:
        self._started += 1
        instance = Instance(
            entry,
            request,
            plan,
            self._limits,
            self._sockets / f"{self._started}.sock",
            self._on_change,
            self._log_level,
            None if draft is None else draft.path,
        )
        self._instances[entry.id] = instance
        return instance

    def _host_memory(self) -> "HostMemory":
        from neuron.engines.base import HostMemory

        available = self._hardware.ram_available_bytes
        if available is not None:
            # What loads in flight have yet to take is spoken for.
            available -= sum(
                max(0, (i.plan.need_bytes or 0) - (i.rss_bytes or 0))
                for i in self._instances.values()
                if i.state is ModelState.LOADING and not i.plan.devices
            )
        return HostMemory(available, self._vram_free())

    def _vram_free(self) -> dict[int, int]:
        """Bytes free on each GPU, without what loads in flight have yet to take."""
        free = self._hardware.vram_free_bytes()
        for instance in self._instances.values():
            plan = instance.plan
            if instance.state is not ModelState.LOADING or not plan.need_bytes:
                continue
            taken = self._hardware.vram_of(instance.pid) or 0
            outstanding = max(0, plan.need_bytes - taken) / plan.need_bytes
            for device, nbytes in plan.device_bytes.items():
                if device in free:
                    free[device] = max(0, free[device] - int(nbytes * outstanding))
        return free

    def _on_change(self, instance: Instance, message: str | None) -> None:
        if self._instances.get(instance.id, instance) is not instance:
            return  # It had failed, and another one took its place while it went.
        if instance.state is ModelState.UNLOADED:
            del self._instances[instance.id]
        if message is not None:
            self._reached[instance.id, instance.state] += 1
        self._events.publish(message or "", model=self.model(instance.entry))

    # Unload.

    async def unload(self, request: UnloadRequest) -> UnloadResult:
        """Give the model's memory back; nothing to do is no error.

        Raises:
            ApiError: 404, there is no such model.
        """
        await self._hardware.refresh()
        instance = self._instances.get(request.model)
        if instance is None:
            await self._catalogue.get(request.model)
            return UnloadResult(model=request.model, freed_bytes=0)
        drain_s = self._limits.drain_s if request.drain_s is None else request.drain_s
        held = 0 if instance.pid is None else self._memory_of(instance)
        await instance.unload(drain_s)
        await self._hardware.refresh()
        return UnloadResult(model=request.model, freed_bytes=held)

    # Inference.

    def route(self, model_id: str) -> Instance:
        """The instance that serves `model_id` now.

        Raises:
            ApiError: nobody does, and what to do about it.
        """
        self._refuse_when_draining()
        instance = self._instances.get(model_id)
        if instance is None:
            raise _not_loaded(model_id, self._catalogue.entries)
        match instance.state:
            case ModelState.READY:
                return instance
            case ModelState.LOADING | ModelState.RECOVERING as state:
                raise unavailable(
                    f"model '{model_id}' is {state}; retry", f"model_{state}", 2
                )
            case ModelState.FAILED:
                raise unavailable(
                    f"model '{model_id}' failed: {instance.error}", "model_failed", 30
                )
            case _:
                raise _not_loaded(model_id, [model_id])

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise shutting_down()

    async def shutdown(self) -> None:
        """Refuse what is new, wake who waits, drain what runs, end every worker."""
        self.draining = True
        self._events.publish("shutting down", kind="node")
        await asyncio.gather(
            *(
                instance.unload(self._limits.drain_s, "shutting_down")
                for instance in list(self._instances.values())
            )
        )


def _join(instance: Instance, request: LoadRequest) -> bool:
    """Whether the instance is ready as it is asked for.

    Raises:
        ApiError: 409, it is on its way out or was loaded with other settings.
    """
    if instance.state is ModelState.UNLOADING:
        raise ApiError(
            409,
            f"model '{request.model}' is being unloaded; load it again afterwards",
            code="model_unloading",
            retry_after=1,
        )
    asked = request.model_dump(exclude_none=True, exclude={"model"})
    before = instance.request.model_dump()
    loaded = instance.plan.model_dump()
    for field, wanted in asked.items():
        has = loaded[field]
        # A plan may round what was asked for.
        if wanted not in (has, before[field]):
            raise ApiError(
                409,
                f"model '{request.model}' is loaded with {field} = {has}, not {wanted};"
                " unload it first",
                code="already_loaded",
                param=field,
                details={"loaded": has, "requested": wanted},
            )
    return instance.state is ModelState.READY


def _plan(
    entry: Entry, request: LoadRequest, memory: "HostMemory", draft: Entry | None
) -> LoadPlan:
    from neuron.engines import registry
    from neuron.engines.base import EngineError

    info = entry.info
    name = request.engine or entry.engine
    if info is None or name is None:
        raise _unsupported(request.model, entry.problem or "no engine can serve it")
    if name not in registry.names():
        raise ApiError(
            422,
            f"there is no engine '{name}'; there are: {', '.join(registry.names())}",
            code="unknown_engine",
            param="engine",
        )
    engine = registry.engine_class(name)
    if (reason := engine.supports(info)) is not None:
        raise _unsupported(request.model, f"{name}: {reason}")
    try:
        return engine.plan(info, request, memory, None if draft is None else draft.info)
    except EngineError as error:
        raise ApiError(422, str(error), code=error.code, param=error.param) from error


def _require_engine(name: str) -> None:
    """Refuse an engine that this host cannot run, whatever would fit.

    Raises:
        ApiError: 422, with what the host lacks.
    """
    from neuron.engines import registry

    found = registry.engine_class(name).probe()
    if not found.available:
        raise ApiError(
            422,
            f"engine '{name}' cannot run on this host: {found.reason}",
            code="engine_unavailable",
            param="engine",
        )


def _unsupported(model: str, reason: str, param: str = "model") -> ApiError:
    return ApiError(
        422,
        f"model '{model}' cannot be served: {reason}",
        code="model_not_supported",
        param=param,
    )


def _does_not_fit(plan: LoadPlan) -> ApiError:
    return ApiError(
        507,
        plan.reason or f"model '{plan.model}' does not fit",
        code="insufficient_memory",
        type="server_error",
        details={"plan": plan.model_dump()},
    )


def _not_loaded(model_id: str, known: Iterable[str]) -> ApiError:
    if model_id not in known:
        return model_not_found(model_id, list(known))
    return ApiError(
        409,
        f"model '{model_id}' is not loaded; POST /models/load loads it",
        code="model_not_loaded",
        param="model",
    )
