"""How a request ended: one log line and one set of metrics, whatever happened."""

import logging
import time
from dataclasses import dataclass

from services.fleet.requests import InFlight
from services.gateway.context import Gateway
from services.gateway.dialects.usage import Usage
from services.keys.ledger import Spent

log = logging.getLogger("cortex.requests")

CLIENT_CLOSED = 499
"""nginx's status for a client that went away before its answer was complete."""
BROKEN_STREAM = 502
UPSTREAM_LOST = "upstream_lost"
UPSTREAM_ERROR = "upstream_error"
UNMEASURABLE_S = 0.05
"""Over a shorter time the tokens arrived in one piece, and a rate means nothing."""


@dataclass(slots=True)
class Ending:
    """Filled in on the way; `record` tells it."""

    status: int = 500
    outcome: str = "internal_error"
    """`done`, `client_gone`, or the code of the error."""
    usage: Usage | None = None

    def tell(self, status: int, outcome: str) -> None:
        self.status, self.outcome = status, outcome

    def done(self, usage: Usage | None) -> None:
        """The answer is complete."""
        self.usage = usage
        self.tell(200, "done")

    def client_gone(self, usage: Usage | None) -> None:
        """So it is, but for who left an answer that was complete."""
        if self.outcome != "done":
            self.usage = usage
            self.tell(CLIENT_CLOSED, "client_gone")

    @property
    def failed(self) -> bool:
        return self.status >= 500


def record(gateway: Gateway, request: InFlight, ending: Ending) -> None:
    """Take the request off the books and tell how it ended."""
    now = time.monotonic()
    duration = now - request.started
    completion = ending.usage.completion if ending.usage else request.tokens
    tok_s = _decode_rate(request, completion, now)
    gateway.fleet.state.requests.close(request, failed=ending.failed)
    gateway.metrics.request_ended(
        request.model,
        request.node or "",
        request.route,
        ending.status,
        duration,
        request.ttft_s,
        ending.usage,
        tok_s,
        generated=request.generates,
    )
    _book(gateway, request, ending)
    if ending.outcome in (UPSTREAM_LOST, UPSTREAM_ERROR):
        gateway.fleet.state.events.add(
            "warning",
            "request",
            f"a stream of {request.model} broke off on {request.node}",
            model=request.model,
            node=request.node,
        )
    _log(request, ending, duration, tok_s)


def _log(
    request: InFlight, ending: Ending, duration: float, tok_s: float | None
) -> None:
    usage = ending.usage
    log.log(
        logging.WARNING if ending.failed else logging.INFO,
        "request id=%s client=%s key=%s model=%s node=%s route=%s status=%d outcome=%s "
        "duration=%.3f ttft=%s prompt=%s completion=%s cached=%s tok_s=%s",
        request.id,
        request.client.replace(" ", "_"),
        request.key.name.replace(" ", "_") if request.key else "-",
        request.model,
        request.node or "-",
        request.route,
        ending.status,
        ending.outcome,
        duration,
        _number(request.ttft_s, 3),
        usage.prompt if usage else "-",
        usage.completion if usage else "-",
        usage.cached if usage else "-",
        _number(tok_s, 1),
    )


def _book(gateway: Gateway, request: InFlight, ending: Ending) -> None:
    """Charge the key, if there is one: by the answer's usage, or where that never came
    by what was seen of it."""
    if request.key is None:
        return
    usage = ending.usage or Usage(request.prompt_tokens, request.tokens)
    price = gateway.fleet.state.entry(request.model).cost
    spent = Spent(
        requests=1,
        prompt=usage.prompt,
        cached=usage.cached,
        completion=usage.completion,
        cost=price.of(usage.prompt, usage.cached, usage.completion) if price else 0.0,
        last_used=time.time(),
    )
    gateway.keys.limits.end(request.key, spent)
    gateway.metrics.keys.request_ended(request.key.name, ending.status, spent)


def _decode_rate(request: InFlight, tokens: int, now: float) -> float | None:
    """Tokens after the first one, over the time after the first one."""
    if request.first_token is None or tokens < 2:
        return None
    elapsed = now - request.first_token
    return (tokens - 1) / elapsed if elapsed >= UNMEASURABLE_S else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
