"""A neuron that asks for a token."""

import re
from collections.abc import Iterator

import pytest

from neuron import openapi
from neuron.protocol import routes
from tests.integration.neuron.conftest import Neuron, client_of
from tests.support.processes import running_neuron, temporary_home

TOKEN = "1e5"
"""Looks like a number, and is none."""
DOCUMENT = openapi.as_object()
OPERATIONS = [
    (path, method)
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
    if path not in (routes.HEALTH, routes.VERSION)
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Neuron]:
    with (
        temporary_home() as home,
        running_neuron(home, environ={"NEURON_TOKEN": TOKEN}) as process,
        client_of(process) as neuron,
    ):
        yield neuron


@pytest.mark.parametrize(("path", "method"), [*OPERATIONS, ("/nothing", "get")])
@pytest.mark.parametrize("shown", [None, "Bearer 100000.0", "Bearer", TOKEN])
def test_nobody_is_let_in_without_it(
    guarded: Neuron, path: str, method: str, shown: str | None
) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    refused = guarded.http.request(
        method.upper(), path.replace("{id}", "x"), headers=headers
    )
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    error = openapi.ErrorEnvelope.model_validate_json(refused.content).error
    assert (error.type, error.code) == ("authentication_error", "invalid_api_key")


def test_anybody_may_see_that_it_is_there(guarded: Neuron) -> None:
    for path in (routes.HEALTH, routes.VERSION):
        assert guarded.http.get(path).status_code == 200
        assert guarded.http.head(path).status_code == 200
        assert "security" not in DOCUMENT["paths"][path]["get"]


def test_who_shows_it_is_let_in(guarded: Neuron) -> None:
    guarded.http.headers["Authorization"] = f"Bearer {TOKEN}"
    try:
        guarded.load()
        assert guarded.story()
        assert guarded.http.get(routes.OPENAPI).json() == DOCUMENT
        assert guarded.http.get("/nothing").status_code == 404
    finally:
        del guarded.http.headers["Authorization"]


def test_it_is_told_to_whom_the_neuron_announces_itself_and_nobody_else(
    guarded: Neuron,
) -> None:
    announcement = guarded.process.announcement
    assert announcement.token == TOKEN
    assert TOKEN not in repr(announcement)
    assert not re.search(rf"\b{TOKEN}\b", guarded.process.log_text())
