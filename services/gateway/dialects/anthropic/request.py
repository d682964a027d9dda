"""POST /v1/messages and /v1/messages/count_tokens as requests of the neuron."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from neuron.protocol import routes
from services.gateway.dialects.anthropic.answer import as_message
from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.anthropic.ignored import ignored, refuse_foreign
from services.gateway.dialects.anthropic.messages import conversation
from services.gateway.dialects.anthropic.places import place_as_sent
from services.gateway.dialects.anthropic.stream import MessageWriter
from services.gateway.dialects.anthropic.tools import tool_fields
from services.gateway.dialects.base import (
    Json,
    StreamWriter,
    Translation,
    counted,
    streamed,
)
from services.gateway.dialects.fields import refused, unsupported

_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


@dataclass(slots=True)
class _Prompted(Translation):
    """What both have in common: a conversation."""

    turns: Sequence[str] = ()
    """Where in the request each of the neuron's messages comes from."""

    def place(self, param: str) -> str:
        return place_as_sent(param, self.turns)


@dataclass(slots=True)
class Message(_Prompted):
    """A message to be answered."""

    hide_thoughts: bool = False
    """Thinking blocks come empty; what was thought is in their signatures."""

    def whole(self, answer: Json) -> Json:
        return as_message(answer, hide_thoughts=self.hide_thoughts)

    def writer(self) -> StreamWriter:
        return MessageWriter(hide_thoughts=self.hide_thoughts)


@dataclass(slots=True)
class Count(_Prompted):
    """A message to be counted."""

    def whole(self, answer: Json) -> Json:
        return {"input_tokens": counted(answer)}

    def writer(self) -> StreamWriter:
        raise AssertionError("a count is never streamed")


def translate_messages(body: Json) -> Message:
    """
    Raises:
        ApiError: 400, the request is malformed, or asks for what there is not.
    """
    fields = Fields(body)
    chat, turns = _chat(fields)
    chat |= _sampling(fields)
    if fields.may("stream", bool):
        chat |= streamed()
    return Message(
        routes.V1_CHAT_COMPLETIONS, chat, ignored(fields), turns,
        _hides_thoughts(fields),
    )  # fmt: skip


def translate_count(body: Json) -> Count:
    """The very prompt that `translate_messages` makes of the same body.

    Raises:
        ApiError: 400, as `translate_messages`.
    """
    fields = Fields(body)
    chat, turns = _chat(fields)
    chat["return_tokens"] = False
    return Count(routes.V1_TOKENIZE, chat, ignored(fields), turns)


def _chat(fields: Fields) -> tuple[Json, list[str]]:
    """All that the prompt and the shape of the answer depend on, and its messages'
    places."""
    refuse_foreign(fields)
    model = fields.need("model", str)
    told = conversation(fields)
    messages = [message for _, message in told]
    chat: Json = {"model": model, "messages": messages}
    if messages[-1]["role"] == "assistant":
        chat["continue_final_message"] = True
    chat |= tool_fields(fields) | _thinking(fields) | _output(fields)
    return chat, [place for place, _ in told]


def _sampling(fields: Fields) -> Json:
    if (limit := fields.need("max_tokens", int)) < 1:
        raise unsupported("max_tokens", "should be 1 or more")
    chat: Json = {"max_tokens": limit}
    numbers: tuple[tuple[str, type[int] | type[float]], ...] = (
        ("temperature", float), ("top_p", float), ("top_k", int),
    )  # fmt: skip
    for name, kind in numbers:
        if (value := fields.may(name, kind)) is not None:
            chat[name] = value
    if stops := fields.texts("stop_sequences"):
        chat["stop"] = stops
    metadata = fields.inner("metadata")
    if metadata and (user := metadata.may("user_id", str)):
        chat["user"] = user
    return chat


def _thinking(fields: Fields) -> Json:
    """Without the field nobody wants to wait for a thought."""
    thinking = fields.inner("thinking")
    if thinking is None:
        return {"enable_thinking": False}
    match thinking.kind:
        case "enabled":
            budget = thinking.need("budget_tokens", int)
            return {"enable_thinking": True, "thinking_token_budget": budget}
        case "adaptive":
            return {"enable_thinking": True}
        case "disabled" | "between_tools":
            return {"enable_thinking": False}
        case _:
            place = thinking.at("type")
            raise refused(place, "should be 'enabled', 'adaptive' or 'disabled'")


def _hides_thoughts(fields: Fields) -> bool:
    thinking = fields.inner("thinking")
    display = thinking and thinking.may("display", str)
    if thinking and display not in (None, "summarized", "omitted"):
        place = thinking.at("display")
        raise refused(place, "should be 'summarized' or 'omitted'")
    return display == "omitted"


def _output(fields: Fields) -> Json:
    """`output_config`, and `output_format` as it was called before."""
    chat: Json = {}
    config = fields.inner("output_config") or Fields({}, "output_config")
    if (effort := config.may("effort", str)) is not None:
        if effort not in _EFFORTS:
            raise refused(
                config.at("effort"), f"should be one of {', '.join(_EFFORTS)}"
            )
        chat["reasoning_effort"] = effort
    if format_ := config.inner("format") or fields.inner("output_format"):
        chat["response_format"] = _format(format_)
    return chat


def _format(format_: Fields) -> Any:
    if format_.kind != "json_schema":
        raise refused(format_.at("type"), "should be 'json_schema'")
    schema: Json = format_.need("schema", dict)
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
