"""The neuron's OpenAPI document, made of the tables that its routes are made of."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter

from neuron.daemon.operations import OPERATIONS as DAEMON
from neuron.operation import JSON, SSE, Operation
from neuron.protocol import headers
from neuron.protocol.version import build_version
from neuron.worker.operations import OPERATIONS as WORKER

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaMode

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_TOKEN: Final = "token"
_WITH_BODY: Final = (400, 413)
_RETRIABLE: Final = frozenset({429, 502, 503})
_HEADERS: Final[Mapping[str, Schema]] = {
    headers.MODEL: {"type": "string", "minLength": 1},
    headers.CALLER: {"type": "string"},
    headers.PRIORITY: {
        "type": "integer",
        "minimum": -headers.MAX_PRIORITY,
        "maximum": headers.MAX_PRIORITY,
    },
    "Last-Event-ID": {"type": "string"},
}

_EVENT: Final[Schema] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
    "required": ["data"],
}


class Error(BaseModel):
    """What was wrong, and what would be right."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    code: str
    param: str | None


class ErrorEnvelope(BaseModel):
    """Every error, on every path."""

    error: Error


@cache
def document() -> bytes:
    """The document as JSON."""
    return orjson.dumps(as_object())


def as_object() -> Schema:
    """The document."""
    operations = (*DAEMON, *WORKER)
    schemas, components = _schemas(operations)
    paths: dict[str, Schema] = {}
    for operation in operations:
        described = _operation(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cortex neuron",
            "version": build_version(),
            "description": "Serves the models of one host.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {_TOKEN: {"type": "http", "scheme": "bearer"}},
            "responses": _refusals(paths),
        },
    }


_Key = tuple[str, str]


def _schemas(operations: Iterable[Operation]) -> tuple[dict[_Key, Schema], Schema]:
    """Schemas by operation and `body` or `answer`, and what they refer to."""
    inputs: list[tuple[_Key, JsonSchemaMode, TypeAdapter[Any]]] = [
        (("", "error"), "serialization", TypeAdapter(ErrorEnvelope))
    ]
    for operation in operations:
        answer = TypeAdapter(operation.answer)
        inputs.append(((operation.id, "answer"), "serialization", answer))
        if operation.body is not None:
            body = TypeAdapter(operation.body)
            inputs.append(((operation.id, "body"), "validation", body))
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    schemas = {key: schema for (key, _), schema in found.items()}
    return schemas, definitions["$defs"]


def _operation(operation: Operation, schemas: Mapping[_Key, Schema]) -> Schema:
    described: Schema = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas[operation.id, "answer"]),
    }
    if not operation.open:
        # Only a neuron that has a token asks for it.
        described["security"] = [{}, {_TOKEN: []}]
    if operation.body is not None:
        schema = schemas[operation.id, "body"]
        described["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schema}},
        }
    return described


def _parameters(operation: Operation) -> list[Schema]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    in_headers = [
        {"name": name, "in": "header", "schema": _HEADERS[name]}
        for name in operation.headers
    ]
    return [*in_path, *in_headers]


def _responses(operation: Operation, answer: Schema) -> Schema:
    content: Schema = {}
    if operation.media != SSE:
        content[operation.media] = {"schema": answer}
    if operation.stream is not None:
        # Of one event: 3.1 has no word for "each", and readers take it like that.
        event = {"description": operation.stream, **_EVENT}
        content[SSE] = {"schema": event}
    # 403: from a web page.
    refusals = {403, *operation.refusals, *(_WITH_BODY if operation.body else ())}
    if not operation.open:
        refusals.add(401)
    if operation.headers:
        refusals.add(400)
    names = [*map(str, sorted(refusals)), "default"]
    return {
        "200": {"description": "It worked.", "content": content},
        **{name: {"$ref": f"#/components/responses/{name}"} for name in names},
    }


def _refusals(paths: Mapping[str, Schema]) -> Schema:
    """The error responses that the operations refer to."""
    used = {
        name
        for methods in paths.values()
        for operation in methods.values()
        for name in operation["responses"]
    }
    return {name: _refusal(name) for name in sorted(used - {"200"})}


def _refusal(name: str) -> Schema:
    known = name.isdecimal()
    schema = {"$ref": _REF.format(model=ErrorEnvelope.__name__)}
    described: Schema = {
        "description": HTTPStatus(int(name)).phrase if known else "An error.",
        "content": {JSON: {"schema": schema}},
    }
    if known and int(name) in _RETRIABLE:
        described["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return described
