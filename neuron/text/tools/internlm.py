"""InternLM: JSON between tokens, which also say that it is no code to be run.

<|action_start|><|plugin|>
{"name": "f", "parameters": {"a": 1}}
<|action_end|>
"""

from collections.abc import Sequence
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, expect
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec

_START: Final = "<|action_start|>"
_PLUGIN: Final = "<|plugin|>"
_END: Final = "<|action_end|>"


class InternLM(ToolFormat):
    name = "internlm"
    markers = (_START,)
    tokens = (_PLUGIN, _END)

    def in_template(self, template: str) -> str | None:
        return _START if _START in template else None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        sink.sure = True
        yield from reader.skip(_START)
        yield from expect(reader, _PLUGIN)
        yield from read_calls(reader, sink)
        yield from reader.skip(_END)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        before = [_PLUGIN, '\n{"name": "', NAME, '", "parameters": ']
        call = lark.each(tools, before, ["}\n", _END])
        return CallRules((_START,), listed(call, parallel, lark.text("\n", _START)))
