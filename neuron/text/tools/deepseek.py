"""DeepSeek: every call between tokens, in the layout of V3 and R1 or that of V3.1.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f
```json
{"a": 1}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>…
"""

from collections.abc import Mapping, Sequence
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, expect, read_name
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.json_reader import copy_value
from neuron.text.tools.lark import NAME, CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec

_BEGIN: Final = "<｜tool▁calls▁begin｜>"
_END: Final = "<｜tool▁calls▁end｜>"
_CALL: Final = "<｜tool▁call▁begin｜>"
_CALL_END: Final = "<｜tool▁call▁end｜>"
_SEPARATOR: Final = "<｜tool▁sep｜>"
_FENCE: Final = "```"


class _DeepSeek(ToolFormat):
    markers = (_BEGIN, _CALL)
    """R1 leaves the outer one out at times."""
    tokens = (_END, _CALL_END, _SEPARATOR)

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        sink.sure = True
        yield from reader.skip(_BEGIN)
        yield from _read_call(reader, sink)
        while (yield from reader.sees(_CALL, (yield from reader.after_space()))):
            yield from _read_call(reader, sink)
        yield from reader.skip(_END)


class DeepSeekV3(_DeepSeek):
    name = "deepseek_v3"

    def in_template(self, template: str) -> str | None:
        return _BEGIN if _BEGIN in template and f"{_FENCE}json" in template else None

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        before = [_CALL, "function", _SEPARATOR, NAME, f"\n{_FENCE}json\n"]
        call = lark.each(tools, before, [f"\n{_FENCE}", _CALL_END])
        calls = listed(call, parallel, lark.text("\n"))
        return CallRules((_BEGIN,), f"{calls} {lark.text(_END)}")


class DeepSeekV31(_DeepSeek):
    name = "deepseek_v31"

    def in_template(self, template: str) -> str | None:
        return _BEGIN if _BEGIN in template else None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None  # The tokens are the same: V3's layout is the first and likelier.

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.each(tools, [_CALL, NAME, _SEPARATOR], [_CALL_END])
        calls = f"{call}+" if parallel else call
        return CallRules((_BEGIN,), f"{calls} {lark.text(_END)}")


def _read_call(reader: Reader, sink: CallSink) -> Waiting[None]:
    yield from expect(reader, _CALL)
    name = yield from read_name(reader)
    yield from expect(reader, _SEPARATOR)
    yield from reader.skip_space()
    fenced = (yield from reader.peek()) != "{"
    if fenced:  # The older layout: the first word was the kind of call.
        name = yield from read_name(reader)
        yield from expect(reader, f"{_FENCE}json")
        yield from reader.skip_space()
    if (yield from reader.peek()) != "{":
        raise NotACallError
    sink.start(name)
    yield from copy_value(reader, sink.arguments)
    sink.end()
    if fenced:
        yield from reader.skip(_FENCE)
    yield from reader.skip(_CALL_END)
