"""Telling a model of tools where its chat template does not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron.text.conversation import texts

_NOTE: Final = """\
You can call these functions, given as JSON with the schemas of their parameters:
{tools}
To call one, answer with nothing but JSON of this form:
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}"""


def with_tools_told(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The conversation with a description of the tools, if there are any.

    It stands before everything else that is said: in the system message where there is
    one, else, as some templates take none, before the first thing that the user says.
    Calls and results of earlier turns become text, as such a template shows neither.
    """
    told = [_as_text(message) for message in messages]
    if not tools or not told:
        return told
    schemas = (json.dumps(t.get("function", t), ensure_ascii=False) for t in tools)
    note = _NOTE.format(tools="\n".join(schemas))
    first, *others = told
    said = "\n".join(texts(first))
    if first.get("role") in ("system", "developer"):
        return [{**first, "content": f"{said}\n\n{note}"}, *others]
    if first.get("role") == "user":
        return [{**first, "content": f"{note}\n\n{said}"}, *others]
    return [{"role": "system", "content": note}, *told]


def calls_tools(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether calls or their results are part of the conversation."""
    return any(m.get("role") == "tool" or m.get("tool_calls") for m in messages)


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
