"""The neuron does what its own OpenAPI document says, whatever it is sent."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies as st
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from neuron import openapi
from neuron.protocol import headers, routes
from tests.integration.neuron.conftest import MODEL, Neuron, client_of
from tests.support.processes import running_neuron, temporary_home

load_all_checks()

DOCUMENT: dict[str, Any] = openapi.as_object()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    result.ok().definition.raw["operationId"]: result.ok()
    for result in SCHEMA.get_all_operations()
    if isinstance(result, Ok)
}
WITH_BODY = [
    name
    for name, operation in OPERATIONS.items()
    if "requestBody" in operation.definition.raw
]
ENDLESS = "events"
CONFORMANCE: list[Any] = CHECKS.get_by_names(
    [
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
LIMITS = {
    "max_tokens": 3,
    "max_completion_tokens": 3,
    "n": 2,
    "thinking_token_budget": 2,
}
"""Valid requests must not keep two cores busy for minutes."""


@pytest.fixture(scope="module")
def neuron() -> Iterator[Neuron]:
    """One of its own: what is sent here may load and unload."""
    with (
        temporary_home() as home,
        running_neuron(home) as process,
        client_of(process) as neuron,
    ):
        neuron.load()
        yield neuron


def test_the_document_is_valid_and_served(neuron: Neuron) -> None:
    response = neuron.http.get(routes.OPENAPI)
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.json() == DOCUMENT
    validate(DOCUMENT)


def aim(case: Case[Any], name: str, known: bool) -> None:
    """Let most requests reach the model, at little cost, and none take it away."""
    body: Any = case.body
    if known and headers.MODEL in case.headers:
        case.headers[headers.MODEL] = MODEL
    if not isinstance(body, dict):
        return
    if known and name != "unload":
        body["model"] = MODEL
    elif body.get("model") == MODEL:
        body["model"] = "another"
    for field, most in LIMITS.items() if name in ("chat", "completions") else ():
        value = body.get(field)
        if type(value) is int and value > most:
            body[field] = most
    if name in ("chat", "completions"):
        body.setdefault("max_tokens", 3)
    if isinstance(body.get("prompt"), list):
        body["prompt"] = body["prompt"][:2]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, GenerationMode.POSITIVE) for name in OPERATIONS if name != ENDLESS),
        *((name, GenerationMode.NEGATIVE) for name in WITH_BODY),
    ],
)
def test_any_request_is_answered_as_documented(
    neuron: Neuron, name: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[name]
    documented = operation.definition.raw["responses"]
    strategy = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=15 if name in WITH_BODY else 2,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, known=st.sampled_from([True, True, True, False]))
    def ask(case: Case[Any], known: bool) -> None:
        aim(case, name, known)
        response = case.call(base_url=neuron.process.url, timeout=30)
        assert str(response.status_code) in documented, response.text
        assert response.status_code not in (500, 502), response.text
        if response.status_code >= 400:
            envelope = openapi.ErrorEnvelope.model_validate_json(response.content)
            assert envelope.error.message
        case.validate_response(response, checks=CONFORMANCE)

    ask()
    assert "Traceback" not in neuron.process.log_text()


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_other_methods_are_refused_with_those_that_are_right(
    neuron: Neuron, path: str
) -> None:
    right = {method.upper() for method in DOCUMENT["paths"][path]}
    for method in {*METHODS} - right:
        response = neuron.http.request(method, path.replace("{id}", MODEL))
        assert response.status_code == 405
        assert response.json()["error"]["code"] == "method_not_allowed"
        assert right <= set(response.headers["Allow"].split(","))
