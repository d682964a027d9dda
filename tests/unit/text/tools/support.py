"""Replies as models of every format write them, and what the parser makes of them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuron.text.events import (
    ContentDelta,
    OutputEvent,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from neuron.text.output import OutputParser, OutputSyntax
from neuron.text.reasoning import ReasoningSyntax
from neuron.text.tools.recognition import FORMATS
from neuron.text.tools.spec import ToolSpec

Arguments = Mapping[str, Any]
Call = tuple[str, Arguments]

BY_NAME = {format_.name: format_ for format_ in FORMATS}
THINK = ReasoningSyntax("<think>", "</think>")


def syntax(name: str, reasoning: ReasoningSyntax | None = None) -> OutputSyntax:
    return OutputSyntax(reasoning, BY_NAME[name])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _items(calls: Sequence[Call], name: str, arguments: str) -> str:
    return ", ".join(
        f'{{"{name}": "{tool}", "{arguments}": {_json(values)}}}'
        for tool, values in calls
    )


def hermes(calls: Sequence[Call]) -> str:
    return "\n".join(
        f"<tool_call>\n{_items([call], 'name', 'arguments')}\n</tool_call>"
        for call in calls
    )


def qwen_xml(calls: Sequence[Call]) -> str:
    def parameter(key: str, value: object) -> str:
        text = value if isinstance(value, str) else _json(value)
        return f"<parameter={key}>\n{text}\n</parameter>\n"

    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(parameter(*item) for item in values.items())
        + "</function>\n</tool_call>"
        for name, values in calls
    )


def llama_json(calls: Sequence[Call]) -> str:
    return "; ".join(_items([call], "name", "parameters") for call in calls)


def pythonic(calls: Sequence[Call]) -> str:
    def call(name: str, values: Arguments) -> str:
        return f"{name}({', '.join(f'{key}={v!r}' for key, v in values.items())})"

    return f"[{', '.join(call(*c) for c in calls)}]"


def mistral(calls: Sequence[Call]) -> str:
    return f"[TOOL_CALLS] [{_items(calls, 'name', 'arguments')}]"


def mistral_new(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{n}[ARGS]{_json(values)}" for n, values in calls)


def cohere(calls: Sequence[Call]) -> str:
    items = ",\n".join(
        f'    {{\n        "tool_name": "{name}",\n        "parameters": {_json(values)}'
        "\n    }"
        for name, values in calls
    )
    return f"Action: ```json\n[\n{items}\n]```"


def cohere_new(calls: Sequence[Call]) -> str:
    items = ",\n    ".join(
        f'{{"tool_call_id": "{i}", "tool_name": "{name}", "parameters": {_json(v)}}}'
        for i, (name, v) in enumerate(calls)
    )
    return f"<|START_ACTION|>[\n    {items}\n]<|END_ACTION|>"


def deepseek_v3(calls: Sequence[Call]) -> str:
    inner = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n"
        f"```json\n{_json(values)}\n```<｜tool▁call▁end｜>"
        for name, values in calls
    )
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def deepseek_v31(calls: Sequence[Call]) -> str:
    inner = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{_json(values)}<｜tool▁call▁end｜>"
        for name, values in calls
    )
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def phi(calls: Sequence[Call]) -> str:
    return f"functools[{_items(calls, 'name', 'arguments')}]"


def phi_token(calls: Sequence[Call]) -> str:
    return f"<|tool_call|>[{_items(calls, 'name', 'arguments')}]<|/tool_call|>"


def json_function(calls: Sequence[Call]) -> str:
    return "".join(f"<function={n}>{_json(values)}</function>" for n, values in calls)


def nemotron(calls: Sequence[Call]) -> str:
    return f"<TOOLCALL>[{_items(calls, 'name', 'arguments')}]</TOOLCALL>"


def apriel(calls: Sequence[Call]) -> str:
    return f"<tool_calls>[{_items(calls, 'name', 'arguments')}]</tool_calls>"


def internlm(calls: Sequence[Call]) -> str:
    return "\n".join(
        f"<|action_start|><|plugin|>\n{_items([call], 'name', 'parameters')}\n"
        "<|action_end|>"
        for call in calls
    )


def glm(calls: Sequence[Call]) -> str:
    return "\n".join(f"{name}\n{_json(values)}" for name, values in calls)


def generic(calls: Sequence[Call]) -> str:
    return f"[{_items(calls, 'name', 'arguments')}]"


WRITERS: dict[str, tuple[str, Callable[[Sequence[Call]], str]]] = {
    "hermes": ("hermes", hermes),
    "qwen_xml": ("qwen_xml", qwen_xml),
    "llama_json": ("llama_json", llama_json),
    "pythonic": ("pythonic", pythonic),
    "mistral": ("mistral", mistral),
    "mistral_new": ("mistral", mistral_new),
    "cohere": ("cohere", cohere),
    "cohere_new": ("cohere", cohere_new),
    "deepseek_v3": ("deepseek_v3", deepseek_v3),
    "deepseek_v31": ("deepseek_v31", deepseek_v31),
    "phi": ("phi", phi),
    "phi_token": ("phi", phi_token),
    "json_function": ("json_function", json_function),
    "nemotron": ("nemotron", nemotron),
    "apriel": ("apriel", apriel),
    "internlm": ("internlm", internlm),
    "glm": ("glm", glm),
    "generic": ("generic", generic),
}
"""Layout → its format, and calls as it has them."""


@dataclass
class Reply:
    """Events put together again."""

    content: str
    reasoning: str
    calls: list[tuple[str, str]]
    """Name and arguments."""
    incomplete: list[int]
    merged: list[object]
    """Everything in order, neighbours of a kind made one, without ids."""
    unparsed: int

    def parsed(self) -> list[Call]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def parse(
    chunks: Iterable[str],
    output: OutputSyntax,
    tools: Sequence[ToolSpec],
    *,
    in_reasoning: bool = False,
    whole_calls: bool = False,
) -> Reply:
    parser = OutputParser(
        output, tools=tools, in_reasoning=in_reasoning, whole_calls=whole_calls
    )
    events: list[OutputEvent] = []
    for chunk in chunks:
        events += parser.feed(chunk)
    events += parser.finish()
    return _put_together(events, parser.unparsed_calls)


def _put_together(events: Sequence[OutputEvent], unparsed: int) -> Reply:
    reply = Reply("", "", [], [], [], unparsed)
    for event in events:
        match event:
            case ContentDelta(text):
                reply.content += text
                _merge(reply.merged, "content", text)
            case ReasoningDelta(text):
                reply.reasoning += text
                _merge(reply.merged, "reasoning", text)
            case ToolCallStarted(index, id_, name):
                assert index == len(reply.calls)
                assert id_
                reply.calls.append((name, ""))
                reply.merged.append(("start", index, name))
            case ToolArgumentsDelta(index, text):
                assert index == len(reply.calls) - 1
                name, arguments = reply.calls[index]
                reply.calls[index] = (name, arguments + text)
                _merge(reply.merged, index, text)
            case ToolCallEnded(index, complete):
                assert index == len(reply.calls) - 1
                if not complete:
                    reply.incomplete.append(index)
                reply.merged.append(("end", index, complete))
    return reply


def _merge(merged: list[object], kind: object, text: str) -> None:
    assert text
    last = merged[-1] if merged else None
    if isinstance(last, list) and last[0] == kind:
        last[1] += text
    else:
        merged.append([kind, text])
