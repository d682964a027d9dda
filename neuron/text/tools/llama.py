"""Llama 3.1 and later: JSON or Python, with or without a marker before it.

    <|python_tag|>{"name": "f", "parameters": {"a": 1}}
    [f(a=1), g()]

Without the marker it is a call only at the beginning of the answer, and only of a tool
that is declared. Several JSON calls are separated by semicolons.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from neuron.text.grammar_spec import BLANK
from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import (
    BARE_OBJECT,
    LIST_OF_OBJECTS,
    read_call,
    read_calls,
)
from neuron.text.tools.lark import NAME, CallRules, Lark, listed, quoted
from neuron.text.tools.python_calls import read_python_calls
from neuron.text.tools.python_grammar import python_call
from neuron.text.tools.spec import ToolSpec

_TAG: Final = "<|python_tag|>"
_START: Final = "<|python_start|>"
_END: Final = "<|python_end|>"
_PYTHON: Final = re.compile(r"\[\w+\(\w+=\w+")
_JSON: Final = '"parameters": '


class _Llama(ToolFormat):
    markers = (_TAG, _START)
    bare = "{["
    tokens = (_END,)

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        marked = (yield from reader.skip(_TAG)) or (yield from reader.skip(_START))
        sink.sure = marked
        if marked:  # Llama 4 may write code between the markers, and the call behind.
            yield from reader.skip(_END)
        if (yield from _sees_python(reader)):
            yield from read_python_calls(reader, sink, bare=not marked)
        else:
            yield from read_calls(reader, sink, bare=not marked)
            while (yield from _sees_another(reader)):
                yield from reader.skip(";")
                yield from read_call(reader, sink, bare=not marked)
        yield from reader.skip(_END)


class LlamaJson(_Llama):
    name = "llama_json"

    def in_template(self, template: str) -> str | None:
        known = (_TAG, _JSON)
        return next((evidence for evidence in known if evidence in template), None)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, ['{"name": "', NAME, '", "parameters": '], ["}"])
        return CallRules(
            self.markers, listed(call, parallel, lark.text("; ")), bare=True
        )

    def bare_calls(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """An answer that begins with a brace is a call; with a bracket it is text,
        unless what follows is what follows in a list of calls."""
        names = " | ".join(quoted(tool.name) for tool in tools)
        return (
            '"{"',
            LIST_OF_OBJECTS,
            f'"[" /{BLANK}*/ ({names}) /{BLANK}*/ "("',
        )


class Pythonic(_Llama):
    name = "pythonic"

    def in_template(self, template: str) -> str | None:
        match = _PYTHON.search(template)
        return match and match[0]

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None  # The tokens are those of `LlamaJson`.

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.either([python_call(lark, tool) for tool in tools])
        return CallRules(
            self.markers,
            f'"[" {listed(call, parallel, lark.text(", "))} "]"',
            bare=True,
        )

    def bare_calls(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """An answer that begins with a bracket is a list of calls; with a brace it is
        text, unless the first key is one of a call's."""
        return ('"["', BARE_OBJECT)


def _sees_python(reader: Reader) -> Waiting[bool]:
    start = yield from reader.after_space()
    if not (yield from reader.sees("[", start)):
        return False
    return (yield from reader.peek((yield from reader.after_space(start + 1)))) != "{"


def _sees_another(reader: Reader) -> Waiting[bool]:
    """A semicolon and a brace after it."""
    semicolon = yield from reader.after_space()
    if not (yield from reader.sees(";", semicolon)):
        return False
    return (yield from reader.sees("{", (yield from reader.after_space(semicolon + 1))))
