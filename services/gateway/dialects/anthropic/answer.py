"""The neuron's answers as messages."""

from typing import Any, Final

import orjson

from services.gateway.dialects.anthropic.thoughts import signature
from services.gateway.dialects.base import NO_REASON, Json
from services.gateway.dialects.usage import Usage

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


def as_message(answer: Json, *, hide_thoughts: bool) -> Json:
    """The message for a whole answer.

    Raises:
        MALFORMED: it is none.
    """
    (choice,) = answer["choices"]
    reason, sequence = stop_of(choice)
    if reason is None:
        raise ValueError(NO_REASON)
    return message_envelope(answer) | {
        "content": content_blocks(choice["message"], hide_thoughts=hide_thoughts),
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage_of(Usage.of(answer)),
    }


def message_envelope(answer: Json) -> Json:
    """What a message says of itself before it says anything; also for a chunk."""
    id_ = str(answer.get("id") or "").removeprefix("chatcmpl-")
    return {
        "id": f"msg_{id_}",
        "type": "message",
        "role": "assistant",
        "model": answer.get("model") or "",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def content_blocks(message: Json, *, hide_thoughts: bool) -> list[Json]:
    """What was thought, what was said, what is called."""
    blocks: list[Json] = []
    if thought := message.get("reasoning_content"):
        blocks.append({
            "type": "thinking",
            "thinking": "" if hide_thoughts else thought,
            "signature": signature(thought, carried=hide_thoughts),
        })  # fmt: skip
    if text := message.get("content"):
        blocks.append({"type": "text", "text": text})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = orjson.loads(function["arguments"] or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("a call's arguments are no object")
        blocks.append(tool_use(call["id"], function["name"]) | {"input": arguments})
    return blocks


def tool_use(id_: str, name: str) -> Json:
    return {"type": "tool_use", "id": id_, "name": name, "input": {}}


def stop_of(choice: Json) -> tuple[str | None, str | None]:
    """(stop_reason, stop_sequence) of an answer's choice; None where it goes on.

    Raises:
        ValueError: the neuron has a reason that nobody knows.
    """
    reason: Any = choice.get("finish_reason")
    if reason is None:
        return None, None
    if reason not in _STOP_REASONS:
        raise ValueError(f"it ended for the reason {reason!r}")
    matched = choice.get("stop_reason")
    if reason == "stop" and isinstance(matched, str):
        return "stop_sequence", matched
    return _STOP_REASONS[reason], None


def usage_of(told: Usage | None) -> Json:
    """Tokens read from the prefix cache are not among the `input_tokens`."""
    usage = told or Usage()
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }
