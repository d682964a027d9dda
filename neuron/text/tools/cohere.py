"""Cohere: a JSON list in a code block after `Action:`, or between two tokens since R7B.

Action: ```json
[{"tool_name": "f", "parameters": {"a": 1}}]```
<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", …}]<|END_ACTION|>
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from neuron.text.grammar_spec import BLANK
from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, expect
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.lark import NAME, CallRules, Lark, listed, quoted
from neuron.text.tools.spec import ToolSpec

_START: Final = "<|START_ACTION|>"
_END: Final = "<|END_ACTION|>"
_ACTION: Final = "Action:"
_FENCE: Final = "```"
_OLD_TURN: Final = "<|CHATBOT_TOKEN|>"


class Cohere(ToolFormat):
    name = "cohere"
    markers = (_START, _ACTION)
    followed = MappingProxyType({_ACTION: f"/{BLANK}*/ {quoted(f'{_FENCE}json')}"})
    tokens = (_END,)

    def in_template(self, template: str) -> str | None:
        if _START in template:
            return _START
        return _ACTION if _ACTION in template and "tool_name" in template else None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return next((token for token in (_START, _OLD_TURN) if token in tokens), None)

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        if (yield from reader.skip(_START)):
            sink.sure = True
            yield from read_calls(reader, sink)
            yield from reader.skip(_END)
            return
        yield from expect(reader, _ACTION)
        yield from expect(reader, f"{_FENCE}json")
        sink.sure = True
        yield from read_calls(reader, sink)
        yield from reader.skip(_FENCE)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        if lark.has_token(_START):
            number = lark.rule("/[0-9]{1,3}/")
            rest = lark.each(
                tools, ['", "tool_name": "', NAME, '", "parameters": '], ["}"]
            )
            opening = lark.text('{"tool_call_id": "')
            call = lark.rule(f"{opening} {number} {rest}")
            calls = listed(call, parallel, lark.text(",\n    "))
            head, tail = lark.text("[\n    "), lark.text("\n]", _END)
            return CallRules((_START,), f"{head} {calls} {tail}")
        call = lark.each(
            tools,
            ['    {\n        "tool_name": "', NAME, '",\n        "parameters": '],
            ["\n    }"],
        )
        calls = listed(call, parallel, lark.text(",\n"))
        head, tail = lark.text("\n[\n"), lark.text(f"\n]{_FENCE}")
        return CallRules((f"{_ACTION} {_FENCE}json",), f"{head} {calls} {tail}")
