"""Hermes, Qwen 2.5 and 3: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`."""

from collections.abc import Sequence

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec
from neuron.text.tools.tagged import END, START, read_tagged


class Hermes(ToolFormat):
    name = "hermes"
    markers = (START,)
    tokens = (END,)

    def in_template(self, template: str) -> str | None:
        # GLM has the same tags around calls of another shape.
        return START if START in template and "<arg_key>" not in template else None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        yield from read_tagged(reader, sink)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        before = ['\n{"name": "', NAME, '", "arguments": ']
        call = lark.each(tools, before, ["}\n", END])
        return CallRules((START,), listed(call, parallel, lark.text("\n", START)))
