"""Requests of the Responses API into the internal form; pure functions."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuron.protocol import routes
from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import optional, refused, unsupported
from services.gateway.dialects.responses import settings
from services.gateway.dialects.responses.assembly import Shape
from services.gateway.dialects.responses.ignored import told
from services.gateway.dialects.responses.items import (
    Conversation,
    kind_of,
    listed,
    resolved,
)
from services.gateway.dialects.responses.places import Places
from services.gateway.dialects.responses.response import new_response
from services.gateway.dialects.responses.tool_names import ToolNames
from services.gateway.dialects.responses.tools import Toolset
from services.gateway.dialects.responses.translation import (
    CountTranslation,
    Keep,
    ResponsesTranslation,
)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the store knows that a request needs; by default there is no store."""

    keep: Keep | None = None
    previous: list[Json] | None = None
    """The items up to and with the response that this one follows."""
    items: Mapping[str, Json] = field(default_factory=dict)
    """Those referred to, by their ids."""


NO_MEMORY = Memory()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request needs of the store."""

    previous: str | None
    items: list[str]


@dataclass(slots=True)
class _Read:
    body: Json
    """The neuron's request."""
    places: Places
    names: ToolNames
    context: list[Json]
    warnings: list[str]


def needs(body: Json) -> Needs:
    """What to look up before the request can be translated.

    Raises:
        ApiError: 400, it is malformed.
    """
    items = listed(body.get("input") or [])
    references = [
        str(item.get("id"))
        for index, item in enumerate(items)
        if kind_of(item, f"input[{index}]") == "item_reference"
    ]
    return Needs(optional(body, "previous_response_id", str, ""), references)


def translate(body: Json, memory: Memory = NO_MEMORY) -> ResponsesTranslation:
    """A request to make a response.

    Raises:
        ApiError: 400, naming the field that is wrong or cannot be had.
    """
    read = _read(body, memory)
    wanted = body.get("store")
    stored = memory.keep is not None and wanted is not False
    if wanted is True and not stored:
        read.warnings.append("store: nothing is stored here")
    response = new_response(
        body, f"resp_{uuid.uuid4().hex}", int(time.time()), stored=stored
    )
    shape = Shape(
        response,
        read.names,
        summary=settings.wants_summary(body),
        sealed=settings.SEALED_THOUGHT in settings.included(body),
    )
    return ResponsesTranslation(
        path=routes.V1_CHAT_COMPLETIONS,
        body=read.body,
        warnings=read.warnings,
        places=read.places,
        shape=shape,
        context=read.context,
        keep=memory.keep if stored else None,
    )


def count(body: Json, memory: Memory = NO_MEMORY) -> CountTranslation:
    """A request to count the tokens that `translate`'s would be charged for.

    Raises:
        ApiError: 400, as `translate`.
    """
    read = _read(
        {name: value for name, value in body.items() if name != "stream"}, memory
    )
    return CountTranslation(
        routes.V1_TOKENIZE,
        read.body | {"return_tokens": False},
        read.warnings,
        read.places,
    )


def _read(body: Json, memory: Memory) -> _Read:
    warnings: list[str] = []
    translated = settings.translated(body, warnings)
    tools = Toolset.read(body)
    if tools.functions:
        translated["tools"] = tools.functions
    if (choice := tools.choice(body)) is not None:
        translated["tool_choice"] = choice
    conversation = Conversation(tools.names)
    instructions = body.get("instructions")
    if instructions:
        conversation.instruct(instructions)
    context = _context(body, memory, conversation)
    translated["messages"] = conversation.messages()
    if not translated["messages"]:
        raise refused("input", "should hold something to answer")
    warnings += [*tools.warnings, *conversation.warnings]
    warnings += [*told("tools", tools.ignored), *told("input", conversation.ignored)]
    places = Places(conversation.places, tools.places)
    return _Read(translated, places, tools.names, context, warnings)


def _context(body: Json, memory: Memory, conversation: Conversation) -> list[Json]:
    """All the items, which are added to the conversation."""
    previous = _previous(body, memory)
    for index, item in enumerate(previous):
        conversation.add(item, f"previous_response_id.items[{index}]")
    given = [] if body.get("input") is None and previous else listed(body.get("input"))
    items = resolved(given, memory.items)
    for place, item in items:
        conversation.add(item, place)
    return [*previous, *(item for _, item in items)]


def _previous(body: Json, memory: Memory) -> list[Json]:
    id_ = optional(body, "previous_response_id", str, "")
    if id_ is None:
        return []
    if memory.keep is None:
        raise unsupported(
            "previous_response_id",
            "responses are not stored here; send the whole conversation as input, or"
            " set `store = true` in [responses] of cortex.toml",
        )
    if memory.previous is None:
        raise refused(
            "previous_response_id",
            f"no response '{id_}' is stored here",
            code="previous_response_not_found",
        )
    return memory.previous
