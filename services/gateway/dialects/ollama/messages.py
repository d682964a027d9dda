"""Messages of a chat, as the neuron takes them."""

from typing import Final

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import expect, objects, optional, required
from services.gateway.dialects.ollama.images import image_parts

_RENAMED: Final = {"thinking": "reasoning_content", "tool_name": "name"}
"""Fields of a message that the neuron has under another name."""
_OWN: Final = frozenset({"content", "images", "tool_calls", *_RENAMED})


def messages_of(body: Json) -> list[Json]:
    """Further fields are kept, for templates that read them.

    Raises:
        ApiError: 400, one is malformed.
    """
    return [_message(message, at) for at, message in objects(body, "messages", "")]


def message_of(role: str, text: str, images: list[Json]) -> Json:
    """A message whose images come first, as Ollama shows them to the model."""
    if not images:
        return {"role": role, "content": text}
    words = [{"type": "text", "text": text}] if text else []
    return {"role": role, "content": [*images, *words]}


def _message(message: Json, at: str) -> Json:
    role = required(message, "role", str, at)
    text = optional(message, "content", str, at)
    worded = {
        **{name: value for name, value in message.items() if name not in _OWN},
        **message_of(role, text or "", image_parts(message, at)),
    }
    if text is None and not message.get("images"):
        worded["content"] = None
    for theirs, ours in _RENAMED.items():
        if (value := optional(message, theirs, str, at)) is not None:
            worded[ours] = value
    if calls := [
        _call(call, place) for place, call in objects(message, "tool_calls", at)
    ]:
        worded["tool_calls"] = calls
    return worded


def _call(call: Json, at: str) -> Json:
    function = required(call, "function", dict, at)
    place = f"{at}.function"
    arguments = function.get("arguments")
    worded: Json = {
        "type": "function",
        "function": {
            "name": required(function, "name", str, place),
            "arguments": expect(
                {} if arguments is None else arguments, dict, f"{place}.arguments"
            ),
        },
    }
    if (id_ := optional(call, "id", str, at)) is not None:
        worded["id"] = id_
    return worded
