"""Speed of anything that turns prompts into tokens step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Protocol

import numpy as np

PROMPT_TOKENS: Final = 32
NEW_TOKENS: Final = 200
_SETTLED: Final = 8
"""Tokens that each stream has when the clock starts."""


class Streams(Protocol):
    """Something that decodes several prompts at once."""

    vocab: int

    def submit(self, name: str, prompt: Sequence[int], new_tokens: int) -> None:
        """Queue a prompt that is continued greedily, to exactly `new_tokens`."""

    def step(self) -> Iterator[str]:
        """Compute once; yields the name of a stream for each token it got."""

    def busy(self) -> bool:
        """Whether anything is left to compute."""


@dataclass(slots=True)
class Clock:
    """Times several streams that began together, while all of them decode."""

    streams: int
    new_tokens: int
    began: float = field(default_factory=perf_counter)
    got: dict[str, int] = field(default_factory=dict)
    """Tokens of each stream so far."""
    _marks: dict[str, tuple[float, int]] = field(default_factory=dict)

    def count(self, name: str, tokens: int = 1) -> None:
        """A stream got tokens."""
        self.got[name] = self.got.get(name, 0) + tokens

    def look(self) -> None:
        """See how far the streams are; once for all that came at the same time."""
        mark = (perf_counter(), sum(self.got.values()))
        least = min(self.got.values()) if len(self.got) == self.streams else 0
        if least >= 1:
            self._marks.setdefault("first", mark)
        if least >= _SETTLED:
            self._marks.setdefault("begun", mark)
        if max(self.got.values(), default=0) >= self.new_tokens - 1:
            self._marks.setdefault("ended", mark)

    def result(self) -> tuple[float, float]:
        """(tokens/s of all streams while all decode, TTFT of the last in ms).

        Raises:
            RuntimeError: streams got other numbers of tokens, or waited for others.
        """
        if set(self.got.values()) != {self.new_tokens}:
            raise RuntimeError(f"got {self.got} tokens, not {self.new_tokens} each")
        begun, ended = self._marks["begun"], self._marks["ended"]
        if ended[0] <= begun[0]:
            raise RuntimeError("the streams never all decoded at once")
        speed = (ended[1] - begun[1]) / (ended[0] - begun[0])
        return speed, 1e3 * (self._marks["first"][0] - self.began)


def decode_speed(
    streams: Streams, batch: int, *, new_tokens: int = NEW_TOKENS, seed: int = 0
) -> tuple[float, float]:
    """(tokens/s of all streams while all decode, TTFT of the last in ms)."""
    clock = Clock(batch, new_tokens)
    for index, prompt in enumerate(prompts(streams.vocab, batch, PROMPT_TOKENS, seed)):
        streams.submit(str(index), prompt, new_tokens)
    while streams.busy():
        for name in streams.step():
            clock.count(name)
        clock.look()
    return clock.result()


def prefill_time(streams: Streams, tokens: int, *, seed: int = 0) -> float:
    """TTFT in ms of one prompt on an idle engine."""
    [prompt] = prompts(streams.vocab, 1, tokens, seed)
    start = perf_counter()
    streams.submit("prefill", prompt, 1)
    arrived = None
    while streams.busy():
        for _ in streams.step():
            arrived = arrived or perf_counter()
    if arrived is None:
        raise RuntimeError("no token came")
    return 1e3 * (arrived - start)


def prompts(vocab: int, count: int, tokens: int, seed: int) -> list[list[int]]:
    """Random prompts; different seeds share no prefix."""
    rng = np.random.default_rng((seed, count, tokens))
    drawn: list[list[int]] = rng.integers(3, vocab, (count, tokens)).tolist()
    return drawn
