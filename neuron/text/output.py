"""A model's output taken apart: thought, answer and tool calls, as they are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

from neuron.text.events import (
    ContentDelta,
    OutputEvent,
    ReasoningDelta,
    ToolArgumentsDelta,
)
from neuron.text.reader import Reader, Waiting
from neuron.text.reasoning import ReasoningSyntax, read_reasoning, recognise_reasoning
from neuron.text.template_traits import ToolSupport
from neuron.text.tokenizer import TextTokenizer
from neuron.text.tools.calls import CallSink, NotACallError
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.recognition import recognise_tools
from neuron.text.tools.spec import ToolSpec


@dataclass(frozen=True, slots=True)
class OutputSyntax:
    """How a model marks what is no plain answer; see `recognise`."""

    reasoning: ReasoningSyntax | None = None
    """None: it does not think aloud."""
    tools: ToolFormat | None = None
    """None: calls are not looked for."""
    tools_reason: str = ""
    """Why it is taken for the model's."""
    tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Markers that are tokens of their own → id."""

    @property
    def visible_tokens(self) -> frozenset[int]:
        """Tokens that the detokenizer has to spell out, special or not."""
        return frozenset(self.tokens.values())

    def without_tools(self) -> Self:
        """For a request that has none: what looks like a call is text."""
        return replace(
            self,
            tools=None,
            tools_reason="",
            tokens=_among(self.tokens, self.reasoning),
        )


def recognise(
    template_source: str | None,
    tokenizer: TextTokenizer,
    support: ToolSupport | None = None,
) -> OutputSyntax:
    """What a model writes, by its chat template, else by the tokens that it has.

    Args:
        support: what of tools the template shows; all of them where not given.
    """
    known = tokenizer.added_tokens
    reasoning = recognise_reasoning(template_source, tokenizer)
    tools, reason = recognise_tools(template_source, known, support or ToolSupport())
    markers = _among(known, reasoning, (*tools.markers, *tools.tokens))
    return OutputSyntax(reasoning, tools, reason, markers)


def _among(
    tokens: Mapping[str, int],
    reasoning: ReasoningSyntax | None,
    markers: Iterable[str] = (),
) -> Mapping[str, int]:
    ours = set(markers)
    if reasoning is not None:
        ours |= {reasoning.start, reasoning.end}
    return MappingProxyType({t: id_ for t, id_ in tokens.items() if t in ours})


class OutputParser:
    """Takes one reply apart while it is written.

    How the text is split changes how the events are split, and nothing else. Nothing is
    lost: what is not passed on is the calls' notation and the markers, with the
    whitespace right after them. A call that cannot be parsed is text, exactly as
    written, and counted; so is the rest of one that breaks off after it has started.
    """

    def __init__(
        self,
        syntax: OutputSyntax,
        *,
        tools: Sequence[ToolSpec] = (),
        in_reasoning: bool = False,
        whole_calls: bool = False,
    ) -> None:
        """
        Args:
            tools: those of the request; without any, calls are not looked for.
            in_reasoning: the prompt ends inside a thought; see `opens_reasoning`.
            whole_calls: pass a call on when it is complete and not as it is written,
                so that a broken one is always text; for replies that are not streamed.
        """
        self.unparsed_calls = 0
        """Broken calls so far."""
        self._syntax = syntax
        self._inside = in_reasoning
        self._events = _Events()
        self._reader = Reader()
        self._format = syntax.tools if tools else None
        self._sink = CallSink(
            self._reader,
            {tool.name: tool for tool in tools},
            self._events.add,
            whole=whole_calls,
        )
        self._machine = self._read()
        next(self._machine, None)

    def feed(self, text: str) -> list[OutputEvent]:
        """What more of the reply makes certain."""
        self._reader.push(text)
        next(self._machine, None)
        return self._events.taken()

    def finish(self) -> list[OutputEvent]:
        """What is left when the reply ends."""
        self._reader.close()
        next(self._machine, None)
        return self._events.taken()

    def _read(self) -> Waiting[None]:
        yield from self._read_thoughts()
        bare = self._format.bare if self._format else ""
        while not (yield from self._reader.ended()):
            first = yield from self._reader.peek(
                (yield from self._reader.after_space())
            )
            if first and first in bare and (yield from self._read_calls()):
                continue
            yield from self._read_text()

    def _read_thoughts(self) -> Waiting[None]:
        syntax, out = self._syntax.reasoning, self._events.reasoning
        while syntax is not None:
            found = yield from read_reasoning(
                self._reader, syntax, out, inside=self._inside
            )
            if not found:
                return
            self._inside = False

    def _read_text(self) -> Waiting[None]:
        """Text up to the end, or to what comes after a call."""
        markers = self._format.markers if self._format else ()
        while (yield from self._reader.text_until(markers, self._events.content)):
            if (yield from self._read_calls()):
                return

    def _read_calls(self) -> Waiting[bool]:
        """Read calls and the whitespace after them; else what was read is text."""
        assert self._format is not None
        begin = self._reader.position
        self._reader.mark()
        self._sink.sure = False
        try:
            yield from self._format.read(self._reader, self._sink)
        except NotACallError:
            if self._reader.position == begin:  # Do not come back to where we are.
                self._reader.take(1)
            broken = self._sink.abandon()
            text = self._reader.since_mark()
            self.unparsed_calls += broken or (self._sink.sure and text.strip() != "")
            self._events.content(text)
            return False
        yield from self._reader.skip_space()
        return True


class _Events:
    """Events in order, neighbours of a kind made one."""

    def __init__(self) -> None:
        self._events: list[OutputEvent] = []
        self._kind: type[ContentDelta | ReasoningDelta] | int | None = None
        self._parts: list[str] = []

    def content(self, text: str) -> None:
        self._append(ContentDelta, text)

    def reasoning(self, text: str) -> None:
        self._append(ReasoningDelta, text)

    def add(self, event: OutputEvent) -> None:
        if isinstance(event, ToolArgumentsDelta):
            self._append(event.index, event.text)
            return
        self._flush()
        self._events.append(event)

    def taken(self) -> list[OutputEvent]:
        """All so far, which are forgotten."""
        self._flush()
        events, self._events = self._events, []
        return events

    def _append(
        self, kind: type[ContentDelta | ReasoningDelta] | int, text: str
    ) -> None:
        """A kind is a class of deltas, or the index of a call for its arguments."""
        if kind != self._kind:
            self._flush()
            self._kind = kind
        self._parts.append(text)

    def _flush(self) -> None:
        text = "".join(self._parts)
        self._parts.clear()
        if not text or self._kind is None:
            return
        if isinstance(self._kind, int):
            self._events.append(ToolArgumentsDelta(self._kind, text))
        else:
            self._events.append(self._kind(text))
