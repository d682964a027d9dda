"""Functionary and Kanana, Llamas of a kind: `<function=name>{"a": 1}</function>`."""

from collections.abc import Mapping, Sequence

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, expect, read_name
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_reader import copy_value
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec
from neuron.text.tools.xml_function import FUNCTION, FUNCTION_END


class JsonFunction(ToolFormat):
    name = "json_function"
    markers = (FUNCTION,)

    def in_template(self, template: str) -> str | None:
        return FUNCTION if FUNCTION in template else None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None  # It is no token of any such model.

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        sink.sure = True
        yield from expect(reader, FUNCTION)
        name = yield from read_name(reader)
        yield from expect(reader, ">")
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            raise NotACallError
        sink.start(name)
        yield from copy_value(reader, sink.arguments)
        sink.end()
        yield from reader.skip(FUNCTION_END)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, [NAME, ">"], [FUNCTION_END])
        return CallRules((FUNCTION,), listed(call, parallel, lark.text(FUNCTION)))
