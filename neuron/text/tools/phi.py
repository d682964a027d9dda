"""Phi-4-mini, and IBM's Granite: a JSON list after a token, or after `functools`.

<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>
functools[{"name": "f", "arguments": {"a": 1}}]
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from neuron.text.grammar_spec import BLANK
from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec

_START: Final = "<|tool_call|>"
_END: Final = "<|/tool_call|>"
_TOOLS: Final = "<|tool|>"
_FUNCTOOLS: Final = "functools"


class Phi(ToolFormat):
    name = "phi"
    markers = (_START, f"{_FUNCTOOLS}[")
    followed = MappingProxyType({f"{_FUNCTOOLS}[": f'/{BLANK}*/ "{{"'})
    tokens = (_END,)

    def in_template(self, template: str) -> str | None:
        known = (_START, _TOOLS, _FUNCTOOLS)
        return next((evidence for evidence in known if evidence in template), None)

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        if (yield from reader.skip(_START)):
            sink.sure = True
        else:
            # The module of that name is subscripted in no program, but in prose.
            yield from reader.skip(_FUNCTOOLS)
            item = yield from reader.after_space(1)
            if not (yield from reader.sees("{", item)):
                raise NotACallError
            sink.sure = True
        yield from read_calls(reader, sink)
        yield from reader.skip(_END)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, ['"name": "', NAME, '", "arguments": '], ["}"])
        calls = f'{listed(call, parallel, lark.text(", {"))} "]"'
        if lark.has_token(_START):
            return CallRules((_START,), f"{lark.text('[{')} {calls} {lark.text(_END)}")
        return CallRules((f"{_FUNCTOOLS}[{{",), calls)
