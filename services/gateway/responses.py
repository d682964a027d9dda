"""`/v1/responses`: making them, and those that are stored."""

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web

from neuron.protocol import paths
from neuron.protocol.errors import ApiError
from services.config import ResponsesSection
from services.gateway import inference
from services.gateway.client_request import work_on
from services.gateway.context import GATEWAY
from services.gateway.dialects.base import Json, Translation
from services.gateway.dialects.responses.listing import Page, listed
from services.gateway.dialects.responses.request import (
    NO_MEMORY,
    Memory,
    count,
    needs,
    translate,
)
from services.gateway.identity import key_of
from services.gateway.sending import json_response
from services.responses.store import RESPONSES_FILE, ResponsesStore
from services.responses.table import Stored

ROUTE = "/v1/responses"
_ABSENT = {
    "compact": "nothing is compacted here; send what is to be left of the conversation",
    "{id}/cancel": "a response ends when its client closes the connection",
}
"""Of OpenAI's API, and not here: what a client is told instead."""


def routes() -> list[web.RouteDef]:
    return [
        web.post(ROUTE, create),
        web.post(f"{ROUTE}/input_tokens", count_tokens),
        *(
            web.post(f"{ROUTE}/{path}", partial(absent, why))
            for path, why in _ABSENT.items()
        ),
        web.get(f"{ROUTE}/{{id}}", retrieve),
        web.delete(f"{ROUTE}/{{id}}", delete),
        web.get(f"{ROUTE}/{{id}}/input_items", input_items),
    ]


@contextlib.asynccontextmanager
async def opened_store(
    section: ResponsesSection,
) -> AsyncIterator[ResponsesStore | None]:
    """The store, where it is configured.

    Raises:
        OSError: its file cannot be used.
    """
    if not section.store:
        yield None
        return
    async with ResponsesStore(paths.state_dir() / RESPONSES_FILE, section) as store:
        yield store


async def create(request: web.Request) -> web.StreamResponse:
    return await inference.serve(request, partial(_translated, translate))


async def count_tokens(request: web.Request) -> web.StreamResponse:
    return await inference.serve(request, partial(_translated, count))


async def _translated(
    work: Callable[[Json, Memory], Translation], request: web.Request
) -> Translation:
    memory = await _memory(request)
    return await work_on(request, lambda fields: work(fields, memory))


async def absent(why: str, request: web.Request) -> web.Response:
    """
    Raises:
        ApiError: 404, always.
    """
    raise ApiError(404, f"there is no {request.path}: {why}", code="not_found")


async def retrieve(request: web.Request) -> web.Response:
    if request.query.get("stream") == "true":
        raise ApiError(
            400,
            "stream: responses are stored when they are over, and not streamed again",
            code="unsupported_parameter",
            param="stream",
        )
    return json_response((await _stored(request)).response)


async def delete(request: web.Request) -> web.Response:
    id_ = request.match_info["id"]
    if not await _store(request).delete(_owner(request), id_):
        raise _unknown(id_)
    return json_response({"id": id_, "object": "response", "deleted": True})


async def input_items(request: web.Request) -> web.Response:
    page = Page.of(request.query)
    return json_response(listed((await _stored(request)).items, page))


async def _memory(request: web.Request) -> Memory:
    """What the store knows that the request needs."""
    store = request.app[GATEWAY].responses
    if store is None:
        return NO_MEMORY
    owner, needed = _owner(request), await work_on(request, needs)
    previous = None
    if needed.previous is not None:
        previous = await store.get(owner, needed.previous)
    return Memory(
        keep=partial(store.put, owner),
        previous=None if previous is None else previous.conversation,
        items=await store.outputs(owner, needed.items),
    )


def _owner(request: web.Request) -> str:
    """Whose responses these are: a key's, or of all who show none."""
    key = key_of(request)
    return "" if key is None else key.id


def _store(request: web.Request) -> ResponsesStore:
    store = request.app[GATEWAY].responses
    if store is None:
        raise ApiError(
            404,
            "responses are not stored here; `store = true` in [responses] of"
            " cortex.toml would change that",
            code="responses_not_stored",
        )
    return store


async def _stored(request: web.Request) -> Stored:
    id_ = request.match_info["id"]
    stored = await _store(request).get(_owner(request), id_)
    if stored is None:
        raise _unknown(id_)
    return stored


def _unknown(id_: str) -> ApiError:
    return ApiError(
        404,
        f"no response '{id_}' is stored here; it may be too old, or another key's",
        code="response_not_found",
    )
