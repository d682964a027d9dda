"""Speed of anything that turns prompts into tokens step by step."""

from collections.abc import Iterator, Sequence
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


def decode_speed(
    streams: Streams, batch: int, *, new_tokens: int = NEW_TOKENS, seed: int = 0
) -> tuple[float, float]:
    """(tokens/s of all streams while all decode, TTFT of the last in ms)."""
    for index, prompt in enumerate(prompts(streams.vocab, batch, PROMPT_TOKENS, seed)):
        streams.submit(str(index), prompt, new_tokens)
    submitted = perf_counter()
    got = dict.fromkeys(map(str, range(batch)), 0)
    marks: dict[str, tuple[float, int]] = {}
    while streams.busy():
        for name in streams.step():
            got[name] += 1
        mark = (perf_counter(), sum(got.values()))
        if min(got.values()) >= 1:
            marks.setdefault("first", mark)
        if min(got.values()) >= _SETTLED:
            marks.setdefault("begun", mark)
        if max(got.values()) >= new_tokens - 1:
            marks.setdefault("ended", mark)
    if set(got.values()) != {new_tokens}:
        raise RuntimeError(f"streams got {got} tokens, not {new_tokens} each")
    begun, ended = marks["begun"], marks["ended"]
    if ended[0] <= begun[0]:
        raise RuntimeError("the streams never all decoded at once")
    speed = (ended[1] - begun[1]) / (ended[0] - begun[0])
    return speed, 1e3 * (marks["first"][0] - submitted)


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
