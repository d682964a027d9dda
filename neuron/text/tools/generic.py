"""Models of no known format: an answer that is JSON and names a declared tool.

It may stand in a fenced block of code, as chat models like to write JSON.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from neuron.text.grammar_spec import BLANK
from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import LIST_OF_OBJECTS, read_calls
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec

_FENCE: Final = "```"
_LANGUAGE: Final = re.compile(r"[a-z_]+")
FENCED: Final = f'"{_FENCE}" /[a-z_]*{BLANK}*/ ("{{" | "[")'
"""How a call in a block of code begins, in Lark."""


class Generic(ToolFormat):
    name = "generic"
    markers = ()
    bare = "{[`"

    def in_template(self, template: str) -> str | None:
        return None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        fenced = yield from reader.skip(_FENCE)
        while fenced and _LANGUAGE.match((yield from reader.peek())):
            reader.run(_LANGUAGE)
        yield from read_calls(reader, sink, bare=True)
        if fenced:
            yield from reader.skip(_FENCE)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, ['{"name": "', NAME, '", "arguments": '], ["}"])
        calls = listed(call, parallel, lark.text(", "))
        either = f'"[" {calls} "]" | {call}' if parallel else call
        return CallRules((), either, bare=True)

    def bare_calls(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        return ('"{"', LIST_OF_OBJECTS, FENCED)
