"""The conversation as chat messages: the same turns in the same order."""

from collections.abc import Iterator
from typing import Final

import orjson

from services.gateway.dialects.anthropic.content import (
    WHAT_USERS_SAY,
    content,
    other_kind,
    parts,
)
from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.anthropic.thoughts import thought_of
from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import refused

_TEXT: Final = ("text",)
_OF_USERS: Final = (*WHAT_USERS_SAY, "tool_result")
_OF_ASSISTANTS: Final = ("text", "thinking", "redacted_thinking", "tool_use")


def conversation(body: Fields) -> list[tuple[str, Json]]:
    """Chat messages for `system` and `messages`, each with the place it comes from.

    Raises:
        ApiError: 400, they are malformed, or hold what is not supported.
    """
    told: list[tuple[str, Json]] = []
    if body.values.get("system") is not None:
        system = content(body, _TEXT, "system")
        told += [("system", {"role": "system", "content": system})] if system else []
    messages = [*body.each("messages")]
    if not messages:
        raise refused("messages", "is required, and should not be empty")
    last_user = max(
        (i for i, each in enumerate(messages) if each.values.get("role") == "user"),
        default=0,
    )
    for index, message in enumerate(messages):
        turns = _turns(message, over=index < last_user)
        told += [(message.place, turn) for turn in turns]
    if told and told[-1][1].get("tool_calls"):
        raise refused(
            f"{told[-1][0]}.content",
            "each 'tool_use' needs a 'tool_result' in the message after it",
        )
    return told


def _turns(message: Fields, *, over: bool) -> Iterator[Json]:
    """A message's chat messages; `over` where the user has said more since."""
    match message.values.get("role"):
        case "user":
            yield from _user(message)
        case "assistant":
            yield _assistant(message)
        case "system":
            yield from _system(message, over=over)
        case _:
            place = message.at("role")
            raise refused(place, "should be 'user', 'assistant' or 'system'")


def _system(message: Fields, *, over: bool) -> list[Json]:
    """Some of them stand only until the user says more."""
    said = {"role": "system", "content": content(message, _TEXT)}
    until = message.may("clear_at", str)
    return [] if over and until == "next_user_message" else [said]


def _user(message: Fields) -> Iterator[Json]:
    """Results of tools are messages of their own, where they stand."""
    if isinstance(message.values.get("content"), str):
        yield {"role": "user", "content": message.values["content"]}
        return
    message.need("content", list)
    said: list[Json] = []
    results = False
    for block in message.each("content"):
        if block.kind != "tool_result":
            said += parts(block, _OF_USERS)
            continue
        if said:
            yield {"role": "user", "content": said}
        said, results = [], True
        yield _result(block)
    if said or not results:
        yield {"role": "user", "content": said}


def _result(block: Fields) -> Json:
    given = block.values.get("content")
    message: Json = {
        "role": "tool",
        "tool_call_id": block.need("tool_use_id", str),
        "content": "" if given is None else content(block, WHAT_USERS_SAY),
    }
    if block.may("is_error", bool):
        message["is_error"] = True
    return message


def _assistant(message: Fields) -> Json:
    """One message for all it thought, said and called in its turn."""
    if isinstance(message.values.get("content"), str):
        return {"role": "assistant", "content": message.values["content"]}
    message.need("content", list)
    said: list[Json] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for block in message.each("content"):
        match block.kind:
            case "text":
                said += parts(block, _TEXT)
            case "thinking":
                thoughts.append(thought_of(block))
            case "redacted_thinking":
                pass  # Nobody but who wrote it can read it.
            case "tool_use":
                calls.append(_call(block))
            case _:
                raise other_kind(block, _OF_ASSISTANTS)
    turn: Json = {"role": "assistant", "content": said or (None if calls else "")}
    if any(thoughts):
        turn["reasoning_content"] = "\n\n".join(filter(None, thoughts))
    if calls:
        turn["tool_calls"] = calls
    return turn


def _call(block: Fields) -> Json:
    arguments: Json = block.need("input", dict)
    try:
        written = orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError as error:
        raise refused(block.at("input"), "is nested too deeply") from error
    return {
        "id": block.need("id", str),
        "type": "function",
        "function": {
            "name": block.need("name", str),
            "arguments": written,
        },
    }
