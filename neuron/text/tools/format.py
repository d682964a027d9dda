"""What every format of tool calls can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.lark import CallRules, Lark
from neuron.text.tools.spec import ToolSpec


class ToolFormat(ABC):
    """How one family of models writes calls; stateless.

    Reading is tolerant: a format also reads what relatives of its models write in the
    same place. Writing, which is what `grammar` prescribes, is exact.
    """

    name: str
    markers: tuple[str, ...]
    """Each begins a call wherever it stands."""
    followed: Mapping[str, str] = MappingProxyType({})
    """Marker → what must follow it to make it one, in Lark, where not anything may."""
    bare: str = ""
    """Characters that may begin a call without a marker where the answer begins."""
    tokens: tuple[str, ...] = ()
    """What else the format is written with; special tokens among them and the markers
    must be spelt out for the reader."""

    @abstractmethod
    def in_template(self, template: str) -> str | None:
        """What shows that a chat template writes this format; None where nothing."""

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        """What shows that a model without such a template was trained on it."""
        return next((marker for marker in self.markers if marker in tokens), None)

    @abstractmethod
    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        """Read a call, or several that follow each other, marker included.

        Raises:
            NotACallError: what follows is none; what was read before and not given to
                the sink is text.
        """

    @abstractmethod
    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        """One call, or several with `parallel`.

        Raises:
            ValueError: a tool cannot be called in this format; the message begins with
                the place.
        """

    def bare_calls(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """Beginnings of an answer that are those of a call without a marker, in Lark.

        An answer of plain text must not begin so; there may be more than a call can
        begin with, where calls and text cannot be told apart any later.
        """
        return ()
