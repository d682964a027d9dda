"""One inference request on its way: a replica, its answer, its end."""

import asyncio
import logging

import aiohttp
from aiohttp import web

from neuron.protocol.errors import unavailable
from neuron.protocol.types import ModelState
from services.fleet.requests import InFlight
from services.gateway import relay
from services.gateway.answer import Answer
from services.gateway.client_request import Call
from services.gateway.context import Gateway
from services.gateway.ending import Ending
from services.gateway.refusal import ELSEWHERE, Refusal
from services.gateway.relay import UpstreamError
from services.gateway.replica_search import find_replica
from services.schema import RequestPhase

log = logging.getLogger(__name__)

ATTEMPTS = 4
"""How many neurons may fail one request before it is given up."""
DEATHS = 2
"""After so many workers died while they had it, a request is suspected of it; a few
more, and the neuron gives the model up."""
SECOND_LOOK_S = 0.25


class Exchange:
    """Finds who answers."""

    def __init__(
        self, gateway: Gateway, request: web.Request, call: Call, entry: InFlight
    ) -> None:
        self._gateway = gateway
        self._fleet = gateway.fleet
        self._books = gateway.fleet.state.requests
        self._call = call
        self._entry = entry
        self._answer = Answer(request, call, entry, self._books)

    @property
    def ending(self) -> Ending:
        """How it went, also when `run` raises."""
        return self._answer.ending

    async def run(self) -> web.StreamResponse:
        """The answer."""
        try:
            return await self._ask()
        except (asyncio.CancelledError, ConnectionResetError):
            self._answer.client_left()
            raise
        except Exception as error:
            return await self._answer.fail(error)

    async def _ask(self) -> web.StreamResponse:
        failed: frozenset[str] = frozenset()
        deaths = 0
        for attempt in range(1, ATTEMPTS + 1):
            node = await self._replica(failed)
            self._books.place(self._entry, node, RequestPhase.WAITING)
            client = self._fleet.clients[node]
            try:
                async with relay.upstream(
                    client, self._call, self._gateway.limits
                ) as upstream:
                    if upstream.status == 200:
                        return await self._answer.relay(upstream)
                    refusal = await self._refusal(upstream)
            except UpstreamError as error:
                log.warning("request id=%s: %s: %s", self._entry.id, node, error)
                failed |= {node}
                continue
            deaths += refusal.deadly
            final = refusal.status not in ELSEWHERE or attempt == ATTEMPTS
            if final or deaths == DEATHS:
                return await self._answer.refuse(refusal)
            if refusal.too_busy or await self._stays_refused(node):
                failed |= {node}
                if not self._fleet.dispatcher.has_another(self._call.model, failed):
                    return await self._answer.refuse(refusal)
        raise unavailable(
            f"'{self._call.model}': {ATTEMPTS} attempts failed; see the gateway's log",
            code="upstream_failed",
        )

    async def _replica(self, failed: frozenset[str]) -> str:
        """The node that takes it, after a load if need be.

        Raises:
            ApiError: nobody can, or not in time.
        """
        model = self._call.model
        if ready := self._fleet.dispatcher.ready_replica(model, failed):
            return ready
        self._books.place(self._entry, None, RequestPhase.LOADING)
        return await find_replica(self._gateway, model, failed, self._answer.tell)

    async def _refusal(self, upstream: aiohttp.ClientResponse) -> Refusal:
        refusal = await Refusal.read(upstream)
        log.info(
            "request id=%s: %s answered %d: %s",
            self._entry.id,
            self._entry.node,
            refusal.status,
            refusal.body[:600].decode(errors="replace"),
        )
        return refusal

    async def _stays_refused(self, node: str) -> bool:
        """Whether the node refuses although its model is ready, asked twice.

        A worker's death may reach the client before the news of it reaches anybody.
        """
        for pause in (0.0, SECOND_LOOK_S):
            await asyncio.sleep(pause)
            await self._fleet.refresh(node)
            if (
                self._fleet.dispatcher.model_state(node, self._call.model)
                is not ModelState.READY
            ):
                return False
        return True
