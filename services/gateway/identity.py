"""On whose behalf a request is served: what the key means beyond the door."""

from functools import partial
from typing import Final

from aiohttp import web

from neuron.protocol.headers import CALLER, PRIORITY, caller_value
from services.gateway.context import GATEWAY
from services.gateway.metrics import GENERATING
from services.keys.file import KeySection
from services.keys.limits import check_model

KEY: Final = web.RequestKey("key", KeySection)


def key_of(request: web.Request) -> KeySection | None:
    """The key that the request showed, if it was a good one."""
    return request.get(KEY)


def may_see(request: web.Request, model: str) -> bool:
    """Whether whoever asks may use that model, and so learn of it."""
    key = key_of(request)
    return key is None or key.may_use(model)


async def concrete(request: web.Request, asked: str) -> str:
    """The model that whoever asks means by that name.

    Raises:
        ApiError: there is none; of the others those are told that they may use.
    """
    dispatcher = request.app[GATEWAY].fleet.dispatcher
    return await dispatcher.concrete(asked, partial(may_see, request))


def begin(request: web.Request, model: str, route: str) -> None:
    """Count a request for `model` to that route of a neuron; once for each request.

    Raises:
        ApiError: 403, its key is not for this model; 429, it has to wait.
    """
    key = key_of(request)
    if key is None:
        return
    check_model(key, model)
    if route in GENERATING:
        request.app[GATEWAY].keys.limits.begin(key)


def admission(request: web.Request, client: str) -> dict[str, str]:
    """Headers that tell a neuron for whom the gateway asks; never a key."""
    key = key_of(request)
    if key is None:
        return {CALLER: caller_value(client)}
    return {CALLER: f"key {key.id}", PRIORITY: str(key.priority)}
