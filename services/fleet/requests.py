"""Requests in flight through this gateway, and what their models did lately."""

import statistics
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from services.fleet.journal import ChangeSignal
from services.keys.file import KeySection
from services.schema import RequestPhase, RequestView

REMEMBERED_TTFTS = 50
RECENT_S = 300.0
"""TTFTs older than this say nothing about now."""


@dataclass(slots=True)
class InFlight:
    """One request; times are on the monotonic clock but for `started_at` (epoch)."""

    id: str
    model: str
    client: str
    route: str
    """The client's."""
    generates: bool = True
    """Else it counts tokens, or the like."""
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    node: str | None = None
    phase: RequestPhase = RequestPhase.WAITING
    first_token: float | None = None
    prompt_tokens: int = 0
    """As a stream tells before its end; 0 until then."""
    key: KeySection | None = None
    """Whose it is, where that was shown."""
    tokens: int = 0
    """Stream events so far; one carries one token, or a few."""

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.started

    def tok_s(self, now: float) -> float | None:
        """Decoded tokens per second since the first one."""
        if self.first_token is None or self.tokens < 2:
            return None
        elapsed = now - self.first_token
        return (self.tokens - 1) / elapsed if elapsed > 0 else None

    def view(self, now: float) -> RequestView:
        tok_s = self.tok_s(now)
        return RequestView(
            id=self.id,
            model=self.model,
            node=self.node,
            client=self.client,
            route=self.route,
            phase=self.phase,
            started_at=self.started_at,
            ttft_s=self.ttft_s,
            tokens=self.tokens,
            tok_s=None if tok_s is None else round(tok_s, 1),
        )


@dataclass(slots=True)
class ModelStats:
    """Of one model since the gateway started."""

    requests: int = 0
    errors: int = 0
    last_used: float | None = None
    ttfts: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=REMEMBERED_TTFTS)
    )
    """(monotonic time, seconds)."""

    def ttft_s(self, now: float) -> float | None:
        """Median of the recent requests."""
        recent = [ttft for at, ttft in self.ttfts if now - at < RECENT_S]
        return statistics.median(recent) if recent else None


class RequestBook:
    """Who is being served where; the numbers that routing balances by."""

    def __init__(self, signal: ChangeSignal) -> None:
        self._signal = signal
        self.active: dict[str, InFlight] = {}
        self.stats: dict[str, ModelStats] = {}
        self._placed: Counter[tuple[str, str]] = Counter()
        self._fresh_ttfts: list[float] = []

    def open(
        self,
        id: str,  # noqa: A002
        model: str,
        client: str,
        route: str,
        *,
        generates: bool = True,
    ) -> InFlight:
        """Enter a request; a client's id that is in use gets a suffix."""
        unique, copies = id, 1
        while unique in self.active:
            copies += 1
            unique = f"{id}-{copies}"
        request = InFlight(unique, model, client, route, generates)
        self.active[unique] = request
        stats = self.stats.setdefault(model, ModelStats())
        stats.requests += 1
        stats.last_used = request.started_at
        self._signal.touch()
        return request

    def place(self, request: InFlight, node: str | None, phase: RequestPhase) -> None:
        """Count it for `node` from here on, or for none."""
        self._unplace(request)
        request.node = node
        request.phase = phase
        if node is not None:
            self._placed[request.model, node] += 1
        self._signal.touch()

    def first_token(self, request: InFlight) -> None:
        now = time.monotonic()
        request.first_token = now
        request.phase = RequestPhase.DECODING
        ttft = now - request.started
        self.stats[request.model].ttfts.append((now, ttft))
        self._fresh_ttfts.append(ttft)
        self._signal.touch()

    def close(self, request: InFlight, *, failed: bool) -> None:
        self._unplace(request)
        del self.active[request.id]
        if failed:
            self.stats[request.model].errors += 1
        self._signal.touch()

    def oldest_first(self) -> list[InFlight]:
        return sorted(self.active.values(), key=lambda r: (r.started_at, r.id))

    def in_flight(self, model: str, node: str) -> int:
        return self._placed[model, node]

    def placed(self) -> dict[tuple[str, str], int]:
        """(model, node) → requests in flight there."""
        return dict(self._placed)

    def phases(self, model: str | None = None) -> tuple[int, int]:
        """(running, waiting) of one model, or of all."""
        running = waiting = 0
        for request in self.active.values():
            if model is not None and request.model != model:
                continue
            if request.phase is RequestPhase.DECODING:
                running += 1
            else:
                waiting += 1
        return running, waiting

    def take_fresh_ttft(self) -> float | None:
        """Median of the TTFTs since the last call."""
        fresh, self._fresh_ttfts = self._fresh_ttfts, []
        return statistics.median(fresh) if fresh else None

    def _unplace(self, request: InFlight) -> None:
        if request.node is None:
            return
        key = request.model, request.node
        self._placed[key] -= 1
        if self._placed[key] <= 0:
            del self._placed[key]
