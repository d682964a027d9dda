"""Telling a model of tools where its chat template does not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron.text.conversation import texts
from neuron.worker.toolset import Toolset

_NOTE: Final = """\
You can call these functions, given as JSON with the schemas of their parameters:
{tools}
To call one, answer with nothing but JSON of this form:
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}"""


def with_tools_told(
    messages: Sequence[Mapping[str, Any]], tools: Toolset
) -> list[Mapping[str, Any]]:
    """The conversation with a system message that describes the tools.

    Calls and results of earlier turns become text, as such a template shows neither.
    """
    note = _NOTE.format(
        tools="\n".join(
            json.dumps(tool.get("function", tool), ensure_ascii=False)
            for tool in tools.sent
        )
    )
    told = [_as_text(message) for message in messages]
    if told and told[0].get("role") in ("system", "developer"):
        first = {**told[0], "content": "\n".join([*texts(told[0]), "", note])}
        return [first, *told[1:]]
    return [{"role": "system", "content": note}, *told]


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call as the note asks for it; a result as what the user has to say."""
    said = "\n".join(texts(message))
    if message.get("role") == "tool":
        return {"role": "user", "content": f"The function returned:\n{said}"}
    if calls := message.get("tool_calls"):
        lines = [said] if said else []
        for call in calls:
            function = call["function"]
            arguments = function.get("arguments") or "{}"
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            name = json.dumps(function["name"], ensure_ascii=False)
            lines.append(f'{{"name": {name}, "arguments": {arguments}}}')
        return {"role": "assistant", "content": "\n".join(lines)}
    return message
