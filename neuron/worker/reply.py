"""One reply: from token ids to what of it a client gets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from neuron.engines.base import TokenEvent, TokenLogprobs
from neuron.text.detokenizer import Detokenizer
from neuron.text.events import (
    ContentDelta,
    OutputEvent,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from neuron.text.output import OutputParser, OutputSyntax
from neuron.text.stop import StopMatcher
from neuron.text.thought import ThoughtTracker
from neuron.text.tokenizer import TextTokenizer
from neuron.text.tools.spec import ToolSpec

FinishReason = Literal["stop", "length", "tool_calls"]
StopReason = str | int
"""The stop string, or the id of the stop token, that ended a reply."""


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """How to read a reply, as the request wants it."""

    stops: Sequence[str] = ()
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end it as the request wants; ends of the model's own are none."""
    keep_stop: bool = False
    """The stop string that ended the reply is part of it."""
    min_tokens: int = 0
    """Stop strings are not looked for before so many tokens."""
    syntax: OutputSyntax = field(default_factory=OutputSyntax)
    visible: frozenset[int] = frozenset()
    """Special tokens to spell out, beyond those of the syntax."""
    tools: tuple[ToolSpec, ...] = ()
    in_reasoning: bool = False
    whole: bool = False
    """Nothing is sent before the end, so that a broken call can still become text."""
    several_calls: bool = True
    reasoning: bool = True
    """Pass the thought on."""
    echo: str | None = None
    """The prompt, to be repeated before the answer."""
    respelt: int = 0
    """Characters that it begins with are the prompt's own last ones, and not told."""
    token_ids: bool = False
    """Tell the ids of all tokens, of those without text and of the last ones too."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log-probabilities; the first of a prompt has none."""

    token_id: int
    logprobs: TokenLogprobs | None
    chars: int = 0
    """Length of the text that came with it; beside an echo, which tells them already,
    characters of the prompt that it spells anew included."""


@dataclass(slots=True)
class CallDelta:
    """More of a tool call; `name` and `id` at its beginning only."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """What came since the last one: all of it, however slow the reader is."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    """Filled where log-probabilities were asked for."""
    token_ids: list[int] | None = None
    """None where nobody asked for them."""
    finish_reason: FinishReason | None = None
    stop_reason: StopReason | None = None
    """None where it ended of itself."""

    def __bool__(self) -> bool:
        told = self.text or self.reasoning or self.calls or self.tokens
        return bool(told or self.token_ids)


class Reply:
    """Decodes, stops and takes apart; keeps what is ready until it is taken."""

    def __init__(
        self, shape: ReplyShape, tokenizer: TextTokenizer, prompt: Sequence[int]
    ) -> None:
        self.tokens = 0
        self.reasoning_tokens = 0
        self.stopped = False
        """It is over, whatever more the engine says."""
        self.calls = 0
        """Complete ones."""
        self._stop_id: int | None = None
        self._shape = shape
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(
            tokenizer, prompt, visible=shape.syntax.visible_tokens | shape.visible
        )
        self._stops = StopMatcher(shape.stops)
        self._thought = ThoughtTracker(
            shape.syntax.reasoning, inside=shape.in_reasoning
        )
        self._parser = OutputParser(
            shape.syntax, tools=shape.tools, in_reasoning=shape.in_reasoning,
            whole_calls=shape.whole,
        )  # fmt: skip
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, CallDelta] = {}
        self._scored: list[tuple[int, ScoredToken]] = []
        self._token_ids: list[int] = []
        self._respelt = shape.respelt
        """Characters of the prompt that are still to come once more."""
        self._decoded = 0
        self._passed = 0

    @property
    def stop_reason(self) -> StopReason | None:
        """Which of the request's stops ended it, if one did."""
        return self._stop_id if self._stops.matched is None else self._stops.matched

    @property
    def unparsed_calls(self) -> int:
        return self._parser.unparsed_calls

    def echo(
        self, ids: Sequence[int] = (), scores: Sequence[TokenLogprobs | None] = ()
    ) -> None:
        """The prompt comes first, where it is wanted; `ids` as far as scored."""
        if self._shape.echo is None:
            return
        self._text.append(self._shape.echo)
        spell = Detokenizer(self._tokenizer, visible=self._shape.visible).feed
        for token_id, score in zip(ids, scores, strict=True):
            token = ScoredToken(token_id, score, len(spell(token_id)))
            self._scored.append((0, token))

    def take(self, event: TokenEvent, *, silent: bool) -> None:
        """One more token; a `silent` one, such as the end, only counts."""
        self.tokens += 1
        if self._shape.token_ids:
            self._token_ids.append(event.token_id)
        spelt = "" if silent else self._detokenizer.feed(event.token_id)
        text = self._beyond_prompt(spelt)
        thinking = self._thought.feed(text)
        self.reasoning_tokens += thinking
        if silent:
            if event.token_id in self._shape.stop_ids:
                self._stop_id = event.token_id
            return
        if event.logprobs is not None:
            end = self._decoded + len(text)
            chars = len(text if self._shape.echo is None else spelt)
            token = ScoredToken(event.token_id, event.logprobs, chars)
            self._scored.append((end, token))
        self._pass(text, free=thinking or self.tokens <= self._shape.min_tokens)

    def finish(self) -> None:
        """The engine is done."""
        self._pass(self._beyond_prompt(self._detokenizer.flush()))
        if not self.stopped:
            self._parse(self._stops.flush())
            self._passed = self._decoded
            self._take(self._parser.finish())

    def _beyond_prompt(self, text: str) -> str:
        beyond = text[self._respelt :]
        self._respelt -= len(text) - len(beyond)
        return beyond

    def _pass(self, text: str, *, free: bool = False) -> None:
        self._decoded += len(text)
        passed = self._stops.flush() + text if free else self._stops.feed(text)
        self._passed += len(passed)
        if self._stops.matched is not None:
            self.stopped = True
            if self._shape.keep_stop:
                passed += self._stops.matched
                self._passed += len(self._stops.matched)
        self._parse(passed)
        if self._stops.matched is not None:
            self._take(self._parser.finish())

    def _parse(self, text: str) -> None:
        if text:
            self._take(self._parser.feed(text))

    def _take(self, events: Sequence[OutputEvent]) -> None:
        for event in events:
            match event:
                case ContentDelta():
                    self._text.append(event.text)
                case ReasoningDelta():
                    if self._shape.reasoning:
                        self._reasoning.append(event.text)
                case ToolCallStarted():
                    call = CallDelta(event.index, event.id, event.name)
                    self._calls[event.index] = call
                case ToolArgumentsDelta():
                    call = self._calls.setdefault(event.index, CallDelta(event.index))
                    call.arguments += event.text
                case ToolCallEnded(complete=True):
                    self.calls += 1
                    if not self._shape.several_calls:
                        self.stopped = True
                        return
                case ToolCallEnded():
                    pass  # What is left of it follows as text.

    def taken(self, finish_reason: FinishReason | None) -> Delta:
        """What is ready, which is forgotten here."""
        passed = [token for end, token in self._scored if end <= self._passed]
        del self._scored[: len(passed)]
        delta = Delta(
            "".join(self._text), "".join(self._reasoning), [*self._calls.values()],
            passed, self._token_ids if self._shape.token_ids else None, finish_reason,
            self.stop_reason,
        )  # fmt: skip
        self._token_ids = []
        self._text.clear()
        self._reasoning.clear()
        self._calls.clear()
        return delta
