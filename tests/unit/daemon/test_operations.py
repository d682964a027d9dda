"""Routes and their description are the same."""

from collections.abc import Iterator
from typing import Any, cast

from aiohttp import web

from neuron import openapi
from neuron.daemon.api import NeuronApi
from neuron.daemon.operations import OPERATIONS
from neuron.protocol import routes
from neuron.worker.operations import OPERATIONS as OF_MODELS
from neuron.worker.routes import WorkerApi


def served(app: web.Application) -> Iterator[tuple[str, str]]:
    for route in app.router.routes():
        assert route.resource is not None
        if route.method != "HEAD":
            yield route.method, route.resource.canonical


def test_the_daemon_serves_what_the_document_describes() -> None:
    nothing = cast("Any", None)
    app = web.Application()
    NeuronApi(nothing, nothing, nothing, nothing, openapi.document).add_routes(app)
    described = {
        (method.upper(), path)
        for path, methods in openapi.as_object()["paths"].items()
        for method in methods
    }
    assert set(served(app)) == described


def test_the_daemon_relays_what_a_worker_serves() -> None:
    nothing = cast("Any", None)
    app = WorkerApi(nothing, nothing).app(max_body_bytes=1)
    assert {path for _, path in served(app)} == set(routes.INFERENCE)
    assert {operation.path for operation in OF_MODELS} == set(routes.INFERENCE)
    assert not {operation.path for operation in OPERATIONS} & set(routes.INFERENCE)
