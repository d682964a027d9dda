"""Models of no known format: an answer that is JSON and names a declared tool."""

from collections.abc import Mapping, Sequence

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.lark import NAME, Lark, listed
from neuron.text.tools.spec import ToolSpec


class Generic(ToolFormat):
    name = "generic"
    markers = ()
    bare = "{["

    def in_template(self, template: str) -> str | None:
        return None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        yield from read_calls(reader, sink, bare=True)

    def grammar(self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool) -> str:
        call = lark.each(tools, ['{"name": "', NAME, '", "arguments": '], ["}"])
        calls = listed(call, parallel, lark.text(", "))
        return f'"[" {calls} "]"' if parallel else call
