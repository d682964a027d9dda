"""A model that is told in plain JSON of tools, or of calls: what its template drops.

It may answer likewise, or in the notation that it was trained on.
"""

from collections.abc import Sequence

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.generic import FENCED, Generic
from neuron.text.tools.json_calls import BARE_OBJECT, LIST_OF_OBJECTS
from neuron.text.tools.lark import CallRules, Lark
from neuron.text.tools.spec import ToolSpec

_PLAIN = Generic()


class Told(ToolFormat):
    """Plain JSON where the answer begins, and the model's own format everywhere."""

    bare = _PLAIN.bare

    def __init__(self, native: ToolFormat, *, tools: bool) -> None:
        """
        Args:
            tools: the tools are told so, and not only calls of earlier turns: then
                calls that are enforced are plain, too.
        """
        self.name = native.name
        self.markers = native.markers
        self.tokens = native.tokens
        self.followed = native.followed
        self._native = native
        self._writer: ToolFormat = _PLAIN if tools else native

    def in_template(self, template: str) -> str | None:
        return self._native.in_template(template)

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        start = yield from reader.after_space()
        for marker in self.markers:
            if (yield from reader.sees(marker, start)):
                yield from self._native.read(reader, sink)
                return
        yield from _PLAIN.read(reader, sink)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        return self._writer.grammar(lark, tools, parallel)

    def bare_calls(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        plain = (BARE_OBJECT, LIST_OF_OBJECTS, FENCED)
        return (*self._writer.bare_calls(tools), *plain)
