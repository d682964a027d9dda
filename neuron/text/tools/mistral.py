"""Mistral: `[TOOL_CALLS]` and a JSON list or, since 2025, `name[ARGS]{…}`."""

from collections.abc import Sequence
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, expect, read_name
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.json_reader import copy_value
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec

_START: Final = "[TOOL_CALLS]"
_ID: Final = "[CALL_ID]"
_ARGUMENTS: Final = "[ARGS]"


class Mistral(ToolFormat):
    name = "mistral"
    markers = (_START,)
    tokens = (_ID, _ARGUMENTS)

    def in_template(self, template: str) -> str | None:
        return _START if _START in template else None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        sink.sure = True
        yield from expect(reader, _START)
        following = yield from reader.peek((yield from reader.after_space()))
        if following and following in "[{":
            yield from read_calls(reader, sink)
        else:
            yield from self._read_named(reader, sink)

    def _read_named(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        name = yield from read_name(reader)
        if (yield from reader.skip(_ID)):
            yield from read_name(reader)
        yield from reader.skip(_ARGUMENTS)
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            raise NotACallError
        sink.start(name)
        yield from copy_value(reader, sink.arguments)
        sink.end()

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        if lark.has_token(_ARGUMENTS):
            call = lark.each(tools, [NAME, _ARGUMENTS], [])
            return CallRules((_START,), listed(call, parallel, lark.text(_START)))
        call = lark.each(tools, ['{"name": "', NAME, '", "arguments": '], ["}"])
        calls = listed(call, parallel, lark.text(", "))
        return CallRules((_START,), f'" "? "[" {calls} "]"')
