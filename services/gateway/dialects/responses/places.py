"""The neuron names places in its own request; clients know those of theirs."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuron.protocol.errors import ApiError

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

    def named(self, error: ApiError) -> ApiError:
        """The neuron's refusal with the client's place."""
        if error.param is None:
            return error
        place = self._place(error.param)
        said = error.message.removeprefix(error.param)
        message = error.message if said == error.message else place + said
        return dataclasses.replace(error, message=message, param=place)

    def _place(self, param: str) -> str:
        found = _MESSAGE.match(param)
        if found and int(found[1]) < len(self.messages):
            return self._in_message(self.messages[int(found[1])], param[found.end() :])
        found = _TOOL.match(param)
        if found and int(found[1]) < len(self.tools):
            return self.tools[int(found[1])] + param[found.end() :]
        for name, ours in _NAMES.items():
            if param == name or param.startswith((f"{name}.", f"{name}[")):
                return ours + param.removeprefix(name)
        return param

    def _in_message(self, message: Mapping[str, str], rest: str) -> str:
        part = _PART.match(rest)
        if part is None or part[1] not in message:
            return message[""]
        return message[part[1]] + rest[part.end() :].replace(".function", "", 1)
