"""`python -m tests.support.paced_worker`: a worker whose engine only takes time.

Each step takes the host's time in Python, in pieces between which others get at the
interpreter as they do between calls of torch, and the device's time, in which the host
can do something else. What is above the engine is all real.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from neuron.engines import registry
from neuron.engines.base import (
    EngineEvent,
    EngineStats,
    Finished,
    GenerationRequest,
    LoadSpec,
    ProgressCallback,
    Started,
    TokenEvent,
)
from neuron.engines.reference.engine import ReferenceEngine
from neuron.worker.process import main

VARIABLE: Final = "PACE"
_PIECES: Final = 24
_PIECE: Final = bytes(2100)
"""So much is hashed without the interpreter."""
_TOKENS: Final = range(300, 2000)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step takes."""

    host_ms: float
    device_ms: float
    ahead: bool
    """Whether the next step is launched before this one is waited for."""

    def environ(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


class PacedEngine(ReferenceEngine):
    """Gives every request a token a step."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = Pace(**json.loads(os.environ[VARIABLE]))
        self._got: dict[str, tuple[GenerationRequest, int]] = {}
        self._steps = 0
        self._launched: float | None = None
        """When the device will be done with the step that it is at."""

    def load(
        self,
        spec: LoadSpec,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        pass

    def unload(self) -> None:
        pass

    def submit(self, request: GenerationRequest) -> None:
        self._got[request.id] = (request, 0)

    def cancel(self, request_id: str) -> None:
        self._got.pop(request_id, None)

    def has_work(self) -> bool:
        return bool(self._got)

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._got), steps=self._steps)

    def step(self) -> list[EngineEvent]:
        done = self._launched or self._launch()
        self._launched = self._launch(done) if self._pace.ahead else None
        time.sleep(max(0.0, done - time.perf_counter()))
        self._work()
        self._steps += 1
        events: list[EngineEvent] = []
        for name, (request, count) in list(self._got.items()):
            if not count:
                events.append(Started(name, 0))
            events.append(TokenEvent(name, _TOKENS[count % len(_TOKENS)]))
            self._got[name] = (request, count + 1)
            if count + 1 == request.max_new_tokens:
                events.append(Finished(name, "length"))
                del self._got[name]
        return events

    def _launch(self, behind: float = 0.0) -> float:
        return max(time.perf_counter(), behind) + self._pace.device_ms / 1e3

    def _work(self) -> None:
        for _ in range(_PIECES):
            end = time.thread_time() + self._pace.host_ms / 1e3 / _PIECES
            hashlib.blake2b(_PIECE)
            while time.thread_time() < end:
                pass


if __name__ == "__main__":
    registry._ENGINES["exllamav2"] = "tests.support.paced_worker:PacedEngine"
    sys.exit(main())
