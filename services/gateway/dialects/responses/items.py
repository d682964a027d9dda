"""Items of a conversation as messages that a neuron knows.

What the assistant did in a row is one message there: its thought, its text, its calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import (
    expect,
    join,
    optional,
    refused,
    required,
    unsupported,
)
from services.gateway.dialects.responses import thought
from services.gateway.dialects.responses.content import content_of
from services.gateway.dialects.responses.ignored import ITEM, PART, ignored
from services.gateway.dialects.responses.tool_names import ToolNames
from services.gateway.dialects.responses.tools import called_with

_THOUGHT = "reasoning_content"
_ROLES = ("user", "assistant", "system", "developer")


def listed(given: object) -> list[Json]:
    """`input` as items.

    Raises:
        ApiError: 400, it is neither a text nor an array of objects.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        raise refused("input", "should be a string or an array of items")
    return [expect(item, dict, f"input[{i}]") for i, item in enumerate(given)]


def kind_of(item: Json, place: str) -> str:
    """The item's type; messages may leave it out, and references.

    Raises:
        ApiError: 400, it has none.
    """
    if item.get("type") is not None:
        return required(item, "type", str, place)
    if "role" in item:
        return "message"
    if item.keys() == {"id"}:
        return "item_reference"
    raise refused(join(place, "type"), "should say what the item is")


def resolved(
    items: Sequence[Json], known: Mapping[str, Json]
) -> list[tuple[str, Json]]:
    """The items with their places, those in place of references that these mean.

    Raises:
        ApiError: 400, one is referred to that is not known, or twice: a small request
            could mean a conversation of any size.
    """
    found, met = [], set()
    for index, item in enumerate(items):
        place = f"input[{index}]"
        if kind_of(item, place) == "item_reference":
            id_ = required(item, "id", str, place)
            if id_ not in known:
                raise refused(
                    f"{place}.id",
                    f"no item '{id_}' is stored here; send the item itself, as most"
                    " clients do with `store: false`",
                    code="item_not_found",
                )
            if id_ in met:
                raise refused(f"{place}.id", f"the item '{id_}' is there already")
            met.add(id_)
            item = known[id_]
        found.append((place, item))
    return found


@dataclass(slots=True)
class Conversation:
    """The messages so far."""

    names: ToolNames
    places: list[dict[str, str]] = field(default_factory=list)
    """Where each message and its parts stand in the client's request."""
    warnings: list[str] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    """Fields of items and of their parts that have no effect here."""
    _messages: list[Json] = field(default_factory=list)
    """Their thoughts still in pieces."""
    _turn: Json | None = None
    """The assistant's message that may still go on."""

    def messages(self) -> list[Json]:
        """All of them; nothing is added later."""
        for message in self._messages:
            if _THOUGHT in message:
                message[_THOUGHT] = "\n\n".join(message[_THOUGHT])
        return self._messages

    def instruct(self, text: str) -> None:
        """Begin with instructions."""
        place = "instructions"
        message = {"role": "system", "content": text}
        self._append(message, {"": place, "content": place})

    def add(self, item: Json, place: str) -> None:
        """
        Raises:
            ApiError: 400, it is malformed, or of a kind that is not known here.
        """
        self.ignored |= ignored(item, ITEM)
        match kind_of(item, place):
            case "message":
                self._add_message(item, place)
            case "reasoning":
                if told := thought.told(item, place, self.warnings):
                    turn = self._assistant(place, "content", "tool_calls")
                    turn.setdefault(_THOUGHT, []).append(told)
                    self.places[-1][_THOUGHT] = place
            case "function_call":
                arguments = required(item, "arguments", str, place)
                self._add_call(item, place, arguments)
            case "custom_tool_call":
                text = required(item, "input", str, place)
                self._add_call(item, place, called_with(text))
            case "function_call_output" | "custom_tool_call_output":
                message = {
                    "role": "tool",
                    "tool_call_id": required(item, "call_id", str, place),
                    "content": self._content(item, "output", place),
                }
                self._append(message, {"": place, "content": f"{place}.output"})
            case kind:
                raise unsupported(f"{place}.type", f"'{kind}' items are not taken here")

    def _add_message(self, item: Json, place: str) -> None:
        role = required(item, "role", str, place)
        if role not in _ROLES:
            raise refused(f"{place}.role", f"should be one of {', '.join(_ROLES)}")
        content = self._content(item, "content", place)
        places = {"content": f"{place}.content"}
        if role == "assistant":
            self._assistant(place, "content", "tool_calls")["content"] = content
            self.places[-1] |= places
        else:
            self._append({"role": role, "content": content}, {"": place, **places})

    def _content(self, item: Json, name: str, place: str) -> str | list[Json]:
        content = content_of(item, name, place)
        if isinstance(parts := item[name], list):
            for part in parts:
                self.ignored |= {f"{name}.{each}" for each in ignored(part, PART)}
        return content

    def _add_call(self, item: Json, place: str, arguments: str) -> None:
        name = required(item, "name", str, place)
        namespace = optional(item, "namespace", str, place)
        call = {
            "id": required(item, "call_id", str, place),
            "type": "function",
            "function": {
                "name": self.names.flat(namespace, name),
                "arguments": arguments,
            },
        }
        turn = self._assistant(place)
        turn.setdefault("content", None)
        calls = turn.setdefault("tool_calls", [])
        self.places[-1][f"tool_calls[{len(calls)}]"] = place
        calls.append(call)

    def _append(self, message: Json, places: dict[str, str]) -> None:
        self._turn = None
        self._messages.append(message)
        self.places.append(places)

    def _assistant(self, place: str, *later: str) -> Json:
        """The assistant's message: another one where this has what comes `later`."""
        if self._turn is None or any(name in self._turn for name in later):
            message: Json = {"role": "assistant"}
            self._append(message, {"": place})
            self._turn = message
        return self._turn
