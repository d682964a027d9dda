"""GLM-4: the name alone on a line, where the answer begins, and its arguments.

get_weather
{"city": "Zürich"}
"""

import string
from collections.abc import Mapping, Sequence
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, read_name
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_reader import copy_value
from neuron.text.tools.lark import NAME, CallRules, Lark, listed, quoted
from neuron.text.tools.spec import ToolSpec

_RESULT: Final = "<|observation|>"
_METADATA: Final = "metadata"
_LATER: Final = "<arg_key>"
"""What models since 4.5 write calls with."""


class Glm(ToolFormat):
    name = "glm"
    markers = ()
    bare = string.ascii_letters + string.digits + "_-"

    def in_template(self, template: str) -> str | None:
        both = _RESULT in template and _METADATA in template
        return f"{_RESULT} and {_METADATA}" if both else None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return _RESULT if _RESULT in tokens and _LATER not in tokens else None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        name = yield from read_name(reader)
        if name not in sink.tools or not (yield from reader.sees("\n")):
            raise NotACallError
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            raise NotACallError
        sink.sure = True
        sink.start(name)
        yield from copy_value(reader, sink.arguments)
        sink.end()

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, [NAME, "\n"], [])
        return CallRules((), listed(call, parallel, lark.text("\n")), bare=True)

    def bare_calls(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        return tuple(quoted(f"{tool.name}\n") for tool in tools)
