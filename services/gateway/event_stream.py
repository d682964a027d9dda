"""GET /admin/v1/events: a snapshot, then what changes, at a bounded rate.

Each subscriber compares the fleet with what it sent last: a slow one skips states in
between, and nothing is queued for it.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from aiohttp import web

from neuron.protocol import sse
from services.fleet.deltas import diff, is_empty
from services.gateway.auth import is_welcome
from services.gateway.context import GATEWAY, Gateway
from services.gateway.sending import send
from services.schema import FleetEvent, FleetSnapshot

MIN_INTERVAL_S = 0.25
KEEPALIVE_S = 10.0


async def events(request: web.Request) -> web.StreamResponse:
    """Until the client goes away, is no longer let in, or the gateway stops."""
    gateway = request.app[GATEWAY]
    response = web.StreamResponse(
        headers={"Content-Type": sse.CONTENT_TYPE, "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    subscriber = Subscriber(gateway, response, partial(is_welcome, request))
    closing = asyncio.create_task(gateway.closing.wait())
    last = sse.event_number(request.headers.get("Last-Event-ID", ""))
    following = asyncio.create_task(subscriber.follow(last))
    try:
        await asyncio.wait({closing, following}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        for task in (closing, following):
            task.cancel()
        await asyncio.gather(closing, following, return_exceptions=True)
    return response


class Subscriber:
    """One client of the stream."""

    def __init__(
        self,
        gateway: Gateway,
        response: web.StreamResponse,
        welcome: Callable[[], bool],
    ) -> None:
        self._gateway = gateway
        self._welcome = welcome
        self._state = gateway.fleet.state
        self._response = response
        self._event_seq = self._state.events.seq
        self._written = time.monotonic()

    async def follow(self, last_event_id: int | None) -> None:
        """Send for as long as the client is welcome.

        Raises:
            ConnectionResetError: the client is gone, or reads nothing.
        """
        if last_event_id is not None:
            self._event_seq = min(last_event_id, self._event_seq)
        sent = self._gateway.snapshot()
        await self._send(sse.encode(sent.model_dump_json(), event="snapshot"))
        while self._welcome():
            await self._send_events()
            sent = await self._send_delta(sent)
            await asyncio.sleep(MIN_INTERVAL_S)
            # Tokens move without a touch: with requests in flight each turn looks.
            patience = 0 if self._state.requests.active else KEEPALIVE_S
            await self._state.signal.wait_beyond(sent.seq, patience)

    async def _send_events(self) -> None:
        events = self._state.events.after(self._event_seq)
        if events:
            self._event_seq = events[-1].seq
            await self._send(b"".join(map(_encode_event, events)))

    async def _send_delta(self, before: FleetSnapshot) -> FleetSnapshot:
        now = self._gateway.snapshot()
        delta = diff(before, now)
        if not is_empty(delta):
            body = delta.model_dump_json(exclude_defaults=True)
            await self._send(sse.encode(body, event="delta"))
        elif time.monotonic() - self._written > KEEPALIVE_S:
            await self._send(sse.comment("still here"))
        return now

    async def _send(self, data: bytes) -> None:
        await send(self._response, data)
        self._written = time.monotonic()


def _encode_event(event: FleetEvent) -> bytes:
    return sse.encode(event.model_dump_json(), event="event", id=str(event.seq))
