"""The neuron names places in its own request; clients know those of theirs."""

import re
from collections.abc import Sequence
from typing import Final

from services.gateway.dialects.fields import renamed

_INDEX: Final = re.compile(r"\[(\d+)\]")
_MESSAGE: Final = re.compile(r"messages\[(\d+)\](\.content)?\S*")
_TOOL: Final = re.compile(r"tools\[(\d+)\](?:\.function)?")
_NAMES: Final = {
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "thinking_token_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "continue_final_message": "messages",
    "response_format.json_schema.schema": "output_config.format.schema",
    "response_format": "output_config.format",
}


def place_as_sent(param: str, turns: Sequence[str]) -> str:
    """The place in the client's request; `turns` are those of the messages that the
    neuron was sent."""
    return _INDEX.sub(r".\1", _place(param, turns))


def _place(param: str, turns: Sequence[str]) -> str:
    if (found := _MESSAGE.fullmatch(param)) and int(found[1]) < len(turns):
        turn = turns[int(found[1])]
        return turn if turn == "system" else turn + (found[2] or "")
    if found := _TOOL.match(param):
        rest = param[found.end() :].replace(".parameters", ".input_schema", 1)
        return f"tools.{found[1]}{rest}"
    return renamed(param, _NAMES)
