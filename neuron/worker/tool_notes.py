"""Telling a model of tools, calls and results where its chat template does not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron.text.conversation import texts, with_tools_in_system
from neuron.text.template_traits import ToolSupport

Messages = list[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

_NOTE: Final = """\
You can call these functions, given as JSON with the schemas of their parameters:
{tools}
To call one, answer with nothing but JSON of this form:
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}"""


def with_tools_told(
    messages: Sequence[Mapping[str, Any]], tools: Tools, support: ToolSupport
) -> tuple[Messages, Tools]:
    """The conversation with all of tools that the template would not show.

    Calls and results of earlier turns become text where it drops either, and where the
    tools have to be described here, so that the model sees one way of calling them.

    Returns:
        The messages, and the tools that are left for the template to tell of.
    """
    told = list(messages)
    described = bool(tools) and support.declarations == "none"
    if described or not support.history:
        told = [_as_text(message) for message in told]
    if tools and support.declarations == "system":
        return with_tools_in_system(told, tools), ()
    if not described:
        return told, tools
    return _with_note(told, tools), ()


def _with_note(messages: Messages, tools: Tools) -> Messages:
    """The tools before everything else that is said: in the system message where there
    is one, else, as some templates take none, before the first thing the user says."""
    schemas = (json.dumps(t.get("function", t), ensure_ascii=False) for t in tools)
    note = _NOTE.format(tools="\n".join(schemas))
    first, *others = messages
    said = "\n".join(texts(first))
    if first.get("role") in ("system", "developer"):
        return [{**first, "content": f"{said}\n\n{note}"}, *others]
    if first.get("role") == "user":
        content = first.get("content")
        if isinstance(content, list):  # there may be images between the texts
            before = {"type": "text", "text": f"{note}\n\n"}
            return [{**first, "content": [before, *content]}, *others]
        return [{**first, "content": f"{note}\n\n{said}"}, *others]
    return [{"role": "system", "content": note}, *messages]


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
