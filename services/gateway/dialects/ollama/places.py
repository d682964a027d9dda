"""The neuron names places in its own request; clients know those of theirs."""

import re
from typing import Final

from services.gateway.dialects.fields import renamed

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


def place_as_sent(param: str, *, chat: bool) -> str:
    """The place in the request of /api/chat, or of /api/generate."""
    if found := _IMAGE.fullmatch(param):
        return f"{found[1] if chat else ''}images[{found[2]}]"
    if param.startswith("messages") and not chat:
        return "prompt"
    return renamed(param, _NAMES)
