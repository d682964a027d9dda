"""A JSON list between two tags: Nemotron's `<TOOLCALL>`, Apriel's `<tool_calls>`."""

from collections.abc import Sequence

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec


class _TaggedList(ToolFormat):
    start: str
    end: str

    def in_template(self, template: str) -> str | None:
        # Others have further tags inside.
        return self.start if f"{self.start}[" in template else None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        sink.sure = True
        yield from reader.skip(self.start)
        yield from read_calls(reader, sink)
        yield from reader.skip(self.end)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, ['{"name": "', NAME, '", "arguments": '], ["}"])
        calls = listed(call, parallel, lark.text(", "))
        return CallRules((self.start,), f'"[" {calls} {lark.text("]", self.end)}')


class Nemotron(_TaggedList):
    name = "nemotron"
    start, end = "<TOOLCALL>", "</TOOLCALL>"
    markers = (start,)
    tokens = (end,)


class Apriel(_TaggedList):
    name = "apriel"
    start, end = "<tool_calls>", "</tool_calls>"
    markers = (start,)
    tokens = (end,)
