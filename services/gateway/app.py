"""The gateway's aiohttp applications: the API, and the metrics beside it."""

import prometheus_client
from aiohttp import web

from neuron.protocol import routes
from services import schema
from services.gateway import (
    admin,
    event_stream,
    inference,
    info,
    ollama,
    responses,
)
from services.gateway.auth import authenticate
from services.gateway.client_request import REQUEST_ID, request_id
from services.gateway.context import GATEWAY, Gateway
from services.gateway.cors import allow_origin, pages
from services.gateway.dialect_choice import COUNT_TOKENS, MESSAGES
from services.gateway.dialects.anthropic import translate_count, translate_messages
from services.gateway.errors import envelope
from services.gateway.guard import guard

MB = 1024 * 1024


def make_app(gateway: Gateway) -> web.Application:
    app = web.Application(
        middlewares=[envelope, pages, guard, authenticate],
        client_max_size=gateway.limits.max_body_mb * MB,
    )
    app[GATEWAY] = gateway
    app.on_response_prepare.append(_name_request)
    app.on_response_prepare.append(allow_origin)
    app.add_routes(
        [
            web.get("/", info.health),
            web.get("/health", info.health),
            web.get("/version", info.version),
            web.get(routes.V1_MODELS, info.list_models),
            web.get(routes.V1_MODELS + "/{id:.+}", info.one_model),
            *(web.post(path, inference.handle) for path in routes.INFERENCE),
            web.post("/v1/embeddings", inference.embeddings),
            web.post(MESSAGES, inference.translated(translate_messages)),
            web.post(COUNT_TOKENS, inference.translated(translate_count)),
            *responses.routes(),
            *ollama.routes(),
            *admin.routes(),
            web.get(schema.EVENTS, event_stream.events, allow_head=False),
        ]
    )
    return app


async def _name_request(request: web.Request, response: web.StreamResponse) -> None:
    if REQUEST_ID not in response.headers:
        response.headers[REQUEST_ID] = request_id(request)


def make_metrics_app(gateway: Gateway) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=gateway.metrics.exposition(),
            headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST},
        )

    app = web.Application(middlewares=[envelope])
    app.add_routes([web.get("/metrics", metrics), web.get("/", metrics)])
    return app
