"""The admin API: what operators see and do. Types and paths: `services.schema`."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import ValidationError

from neuron.protocol.errors import ApiError, shutting_down
from services import schema
from services.gateway.client_request import read_body
from services.gateway.context import GATEWAY, Gateway
from services.gateway.identity import key_of
from services.gateway.sending import json_response
from services.keys.views import key_list
from services.schema import ModelAction, Operation

MAX_BY = 200
"""Characters of who asked that are kept."""

Act = Callable[[Gateway, ModelAction], Awaitable[Operation]]


def routes() -> list[web.RouteDef]:
    return [
        web.get(schema.FLEET, fleet),
        web.post(schema.LOAD, _action(lambda g, a: g.fleet.lifecycle.load(a))),
        web.post(schema.UNLOAD, _action(lambda g, a: g.fleet.lifecycle.unload(a))),
        web.post(schema.PIN, _action(lambda g, a: g.fleet.pins.set(a, True))),
        web.post(schema.UNPIN, _action(lambda g, a: g.fleet.pins.set(a, False))),
        web.get(schema.OPERATION, operation),
        web.get(schema.KEYS, keys),
    ]


async def fleet(request: web.Request) -> web.Response:
    return json_response(request.app[GATEWAY].snapshot())


async def operation(request: web.Request) -> web.Response:
    id_ = request.match_info["id"]
    found = request.app[GATEWAY].fleet.state.operations.get(id_)
    if found is None:
        raise ApiError(
            404, f"there is no operation '{id_}'", code="operation_not_found"
        )
    return json_response(found)


async def keys(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    keeper = gateway.keys
    await keeper.look()
    required = keeper.required(gateway.limits.auth)
    return json_response(key_list(keeper.keys, keeper.limits, required=required))


def _action(act: Act) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        if gateway.stopping.is_set():
            raise shutting_down()
        return json_response(await act(gateway, await _read_action(request)))

    return handle


async def _read_action(request: web.Request) -> ModelAction:
    """The body, with who asked and from where.

    Raises:
        ApiError: a field is missing or wrong; it is named.
    """
    try:
        action = ModelAction.model_validate_json(await read_body(request))
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])
        status, code = 422, "invalid_request_body"
        if first["type"] == "json_invalid":
            status, code = 400, "malformed_json"
        raise ApiError(
            status, f"{param or 'the body'}: {first['msg']}", code, param=param or None
        ) from error
    who = action.by[:MAX_BY] or "an operator"
    by = f"{who} from {request.remote or 'local'}"
    if (key := key_of(request)) is not None:
        by += f" with the key '{key.name}'"
    return action.model_copy(update={"by": by})
