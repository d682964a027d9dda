"""One model of this neuron: its worker's life from load to unload."""

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from neuron.config import Limits
from neuron.daemon.catalogue import Entry
from neuron.daemon.recovery import LifeSigns, RestartPolicy
from neuron.daemon.upstream import Upstream
from neuron.daemon.worker_process import WorkerProcess
from neuron.ipc import (
    CloseReason,
    Command,
    LoadFailed,
    Progress,
    Ready,
    Report,
    Stats,
    WorkerSpec,
)
from neuron.protocol.errors import ApiError, shutting_down
from neuron.protocol.types import (
    LoadOptions,
    LoadPlan,
    LoadProgress,
    LoadRequest,
    ModelState,
)

log = logging.getLogger(__name__)

_LOG_LINES_SHOWN: Final = 8
_NOTICE_S: Final = 1.0
_STATUS: Final = {"out_of_memory": 507, "internal_error": 500}


class Instance:
    """Owns a worker process and starts another one when it dies.

    `on_change` is called after every change of state, with words for people, and after
    every progress report, without.
    """

    def __init__(
        self,
        entry: Entry,
        request: LoadRequest,
        plan: LoadPlan,
        limits: Limits,
        socket: Path,
        on_change: Callable[["Instance", str | None], None],
        log_level: str = "INFO",
        draft_path: Path | None = None,
    ) -> None:
        self.entry = entry
        self.request = request
        self.plan = plan
        self._draft_path = draft_path
        self.state = ModelState.LOADING
        self.progress: LoadProgress | None = None
        self.error: str | None = None
        self.loaded_at: float | None = None
        self.load_s: float | None = None
        self.stats: Stats | None = None
        self.rss_bytes: int | None = None
        self.upstream = Upstream(socket)
        self._limits = limits
        self._socket = socket
        self._log_level = log_level
        self._on_change = on_change
        self._restarts = RestartPolicy()
        self._life = LifeSigns(limits.stall_s)
        self._worker: WorkerProcess | None = None
        self._up: asyncio.Future[LoadFailed | None] | None = None
        self._settled = asyncio.Event()
        self._refusal: ApiError | None = None
        self._changed = asyncio.Event()
        self._unloading: asyncio.Task[None] | None = None
        self._drain_until = math.inf
        self._drain: asyncio.Timeout | None = None
        self._life_task = asyncio.create_task(self._live_or_fail())

    # What others look at.

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def heartbeat_age(self) -> float | None:
        return self._life.heartbeat_age if self._worker else None

    async def changed(self, timeout: float) -> bool:
        """Wait for the next change of state or progress; False after `timeout`."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
                return True
        except TimeoutError:
            return False

    async def loss_noticed(self) -> None:
        """Wait until a relay's lost connection shows in the state, or is not one."""
        deadline = time.monotonic() + _NOTICE_S
        while self.state is ModelState.READY:
            if not await self.changed(max(0.0, deadline - time.monotonic())):
                return

    async def ready(self) -> None:
        """Wait until it serves.

        Raises:
            ApiError: it does not, and why.
        """
        await self._settled.wait()
        if self._refusal is not None:
            raise dataclasses.replace(self._refusal)

    def _refuse_waiters(self, refusal: ApiError) -> None:
        """Answer everybody who waits for this load."""
        self._refusal = refusal
        self._settled.set()

    # Life.

    def _change(self, state: ModelState, message: str) -> None:
        self.state = state
        log.info("%s: %s", self.id, message)
        self._notify(message)

    def _notify(self, message: str | None) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(self, message)

    async def _live_or_fail(self) -> None:
        try:
            await self._live()
        except Exception as error:
            log.exception("%s: supervision failed", self.id)
            await self._give_up(_failed(f"supervision failed: {error}", []))

    async def _live(self) -> None:
        self._notify("loading")
        try:
            await self._start()
        except ApiError as error:
            await self._give_up(error)
            return
        death = await self._watch()
        while (delay := self._restarts.next_delay()) is not None:
            if self._unloading is not None:
                return
            self._settled.clear()
            self.error = f"the worker {death}"
            self._change(ModelState.RECOVERING, f"the worker {death}; starting another")
            await self._discard_worker()
            await asyncio.sleep(delay)
            try:
                await self._start()
            except ApiError as error:
                death = f"did not come back: {error}"
            else:
                death = await self._watch()
        await self._give_up(
            _failed(f"the worker {death}; it died too often", self._log_tail())
        )

    async def _start(self) -> None:
        """Start a worker and wait until it serves.

        Raises:
            ApiError: it does not.
        """
        started = time.monotonic()
        self._up = asyncio.get_running_loop().create_future()
        self._life = LifeSigns(self._limits.stall_s)
        self.stats = self.progress = None
        try:
            self._worker = await WorkerProcess.start(self._spec(), self._on_report)
        except OSError as error:
            raise _failed(f"no worker can be started: {error}", []) from error
        await self._await_up(self._worker, self._up)
        self.progress = self.error = None
        self.load_s = time.monotonic() - started
        self.loaded_at = time.time()
        self._change(ModelState.READY, f"ready after {self.load_s:.1f} s")
        self._settled.set()

    async def _await_up(
        self, worker: WorkerProcess, up: "asyncio.Future[LoadFailed | None]"
    ) -> None:
        ended = asyncio.create_task(worker.wait())
        either: set[asyncio.Future[Any]] = {up, ended}
        deadline = time.monotonic() + self._limits.load_timeout_s
        killed = ""
        try:
            while not (up.done() or ended.done()):
                await asyncio.wait(
                    either, timeout=1, return_when=asyncio.FIRST_COMPLETED
                )
                if self._life.stalled(has_work=True):
                    killed = f"showed no life for {self._limits.stall_s:g} s"
                elif time.monotonic() > deadline:
                    killed = f"was not ready after {self._limits.load_timeout_s:g} s"
                if killed:
                    worker.kill()
            if not up.done():
                how = await ended
                raise _failed(
                    f"the worker {killed or how} while it loaded", self._log_tail()
                )
            if (failure := up.result()) is not None:
                raise _refused(failure)
        finally:
            ended.cancel()

    async def _watch(self) -> str:
        """Wait for the worker's end, which a stall hastens; says how it came."""
        worker = self._worker
        assert worker is not None
        ended = asyncio.create_task(worker.wait())
        stalled = False
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=min(1.0, self._limits.stall_s / 4))
                has_work = self.upstream.in_use > 0 or bool(
                    self.stats and self.stats.busy
                )
                if not stalled and self._life.stalled(has_work=has_work):
                    stalled = True
                    log.error("%s: worker %d stalls; killing it", self.id, worker.pid)
                    worker.kill()
            how = await ended
        finally:
            ended.cancel()
        if stalled:
            return f"had work and showed no life for {self._limits.stall_s:g} s"
        return how

    def _on_report(self, report: Report) -> None:
        match report:
            case Progress():
                self._life.beat()
                self.progress = LoadProgress(
                    stage=report.stage, done=report.done, total=report.total
                )
                self._notify(None)
            case Ready():
                self.rss_bytes = report.rss_bytes
                self._set_up(None)
            case LoadFailed():
                self._set_up(report)
            case Stats():
                self._life.beat(busy=report.busy, steps=report.steps)
                self.stats = report
                self.rss_bytes = report.rss_bytes or self.rss_bytes

    def _set_up(self, outcome: LoadFailed | None) -> None:
        if self._up is not None and not self._up.done():
            self._up.set_result(outcome)

    def _log_tail(self) -> list[str]:
        return self._worker.log_tail[-_LOG_LINES_SHOWN:] if self._worker else []

    async def _give_up(self, error: ApiError) -> None:
        await self._discard_worker()
        await self.upstream.retire()
        self.error = "\n".join([error.message, *error.details.get("log", [])])
        self._change(ModelState.FAILED, f"failed: {error.message}")
        self._refuse_waiters(error)

    async def _discard_worker(self) -> None:
        if self._worker is not None:
            await self._worker.stop()
            self._worker = None
        self.stats = None
        await asyncio.to_thread(self._socket.unlink, missing_ok=True)

    def _spec(self) -> WorkerSpec:
        plan = self.plan
        return WorkerSpec(
            model=self.id,
            path=self.entry.path,
            engine=plan.engine,
            max_seq_len=plan.max_seq_len or 0,
            slots=plan.slots or 1,
            cache_mode=plan.cache_mode or "",
            cache_tokens=plan.cache_tokens or 0,
            devices=plan.devices,
            options=LoadOptions.model_validate(plan.model_dump()),
            draft_path=self._draft_path,
            socket=self._socket,
            max_queue=self._limits.max_queue,
            queue_wait_s=self._limits.queue_wait_s,
            max_per_caller=self._limits.max_per_caller,
            max_body_bytes=self._limits.max_body_mb * 1024 * 1024,
            log_level=self._log_level,
        )

    # Unload.

    async def unload(self, drain_s: float, reason: CloseReason = "unloading") -> None:
        """Let running requests finish for `drain_s` seconds, then end the worker.

        Joins an unload that runs already, which then ends at the earlier of both
        deadlines; the caller's cancellation does not end it.
        """
        until = asyncio.get_running_loop().time() + drain_s
        self._drain_until = min(self._drain_until, until)
        if self._drain is not None and not self._drain.expired():
            self._drain.reschedule(self._drain_until)
        if self._unloading is None:
            self._unloading = asyncio.create_task(self._unload(reason))
        await asyncio.shield(self._unloading)

    async def _unload(self, reason: CloseReason) -> None:
        serves = self.state is ModelState.READY
        self._change(ModelState.UNLOADING, "unloading")
        self._refuse_waiters(
            shutting_down()
            if reason == "shutting_down"
            else ApiError(
                409, f"model '{self.id}' is being unloaded", code="model_unloading"
            )
        )
        if self._worker is not None:
            self._worker.send(Command(kind="close", reason=reason))
            if not serves:
                self._worker.kill()  # A load has nothing to lose.
        await self._drain_requests()
        self._life_task.cancel()
        await asyncio.gather(self._life_task, return_exceptions=True)
        await self._discard_worker()
        await self.upstream.retire()
        self._change(ModelState.UNLOADED, "unloaded")

    async def _drain_requests(self) -> None:
        try:
            async with asyncio.timeout_at(self._drain_until) as self._drain:
                await self.upstream.idle()
        except TimeoutError:
            log.warning("%s: requests still run; ending them", self.id)
        finally:
            self._drain = None


def _refused(failure: LoadFailed) -> ApiError:
    status = _STATUS.get(failure.code, 422)
    return ApiError(
        status,
        failure.message,
        code=failure.code,
        type="server_error" if status >= 500 else "invalid_request_error",
        param=failure.param,
    )


def _failed(message: str, tail: list[str]) -> ApiError:
    return ApiError(
        500, message, code="load_failed", type="server_error", details={"log": tail}
    )
