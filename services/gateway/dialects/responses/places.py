"""The neuron names places in its own request; clients know those of theirs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.gateway.dialects.fields import renamed
from services.gateway.dialects.responses.tools import FORMAT

_MESSAGE = re.compile(r"messages\[(\d+)\]")
_PART = re.compile(r"\.(content|reasoning_content|tool_calls\[\d+\])")
_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?")
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of the neuron's request stand in the client's."""

    messages: Sequence[Mapping[str, str]] = ()
    """For each message, its parts' places: of its `content`, of `tool_calls[0]`, and,
    under "", its own."""
    tools: Sequence[str] = ()

    def as_sent(self, param: str) -> str:
        """The client's place."""
        found = _MESSAGE.match(param)
        if found and int(found[1]) < len(self.messages):
            return self._in_message(self.messages[int(found[1])], param[found.end() :])
        found = _TOOL.match(param)
        if found and int(found[1]) < len(self.tools):
            place = self.tools[int(found[1])]
            custom = place.endswith(f".{FORMAT}")
            return place if custom else place + param[found.end() :]
        return renamed(param, _NAMES)

    def _in_message(self, message: Mapping[str, str], rest: str) -> str:
        part = _PART.match(rest)
        if part is None or part[1] not in message:
            return message[""]
        return message[part[1]] + rest[part.end() :].replace(".function", "", 1)
