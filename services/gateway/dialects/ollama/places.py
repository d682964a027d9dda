"""The neuron names places in its own request; clients know those of theirs."""

import dataclasses
import re
from typing import Final

from neuron.protocol.errors import ApiError

_IMAGE: Final = re.compile(r"(messages\[\d+\]\.)content\[(\d+)\]\S*")
"""Parts of a content are a message's images, and behind them its text."""
_NAMES: Final = {
    "response_format.json_schema.schema": "format",
    "response_format": "format",
    "reasoning_effort": "think",
    "enable_thinking": "think",
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    **{
        name: f"options.{name}"
        for name in (
            "frequency_penalty", "min_p", "presence_penalty", "seed", "stop",
            "temperature", "top_k", "top_p",
        )
    },
}  # fmt: skip


def named_as_sent(error: ApiError, *, chat: bool) -> ApiError:
    """The refusal with places in the request of /api/chat, or of /api/generate."""
    if error.param is None:
        return error
    place = _place(error.param, chat)
    said = error.message.removeprefix(error.param)
    message = error.message if said == error.message else place + said
    return dataclasses.replace(error, message=message, param=place)


def _place(param: str, chat: bool) -> str:
    if found := _IMAGE.fullmatch(param):
        return f"{found[1] if chat else ''}images[{found[2]}]"
    if param.startswith("messages") and not chat:
        return "prompt"
    for name, theirs in _NAMES.items():
        if param == name or param.startswith((f"{name}.", f"{name}[")):
            return theirs + param.removeprefix(name)
    return param
