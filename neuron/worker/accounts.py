"""What a request used, and how long it took."""

from collections.abc import Iterable
from typing import Any

from neuron.worker.choices import Choices
from neuron.worker.generation import Times


class Account:
    """Sums over the choices of one request."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    @property
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many choices answer it."""
        prompts = {p.prompt: len(p.request.prompt_ids) for p in self._choices.prepared}
        return sum(prompts.values())

    @property
    def cached_tokens(self) -> int:
        """Of the first choice of each prompt: the others find its pages there."""
        first: dict[int, int] = {}
        for prepared in self._choices.prepared:
            generation = self._choices.generations.get(prepared.index)
            if generation is not None:
                first.setdefault(prepared.prompt, generation.cached_tokens)
        return sum(first.values())

    def _sum(self, name: str) -> int:
        generations = self._choices.generations.values()
        return sum(getattr(generation.reply, name) for generation in generations)

    @property
    def completion_tokens(self) -> int:
        return self._sum("tokens")

    @property
    def reasoning_tokens(self) -> int:
        return self._sum("reasoning_tokens")

    @property
    def calls(self) -> int:
        return self._sum("calls")

    @property
    def unparsed_calls(self) -> int:
        return self._sum("unparsed_calls")

    def usage(self) -> dict[str, Any]:
        """Token counts; details are part of the counts, not on top of them."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }

    def timings(self) -> dict[str, float | None]:
        """Seconds to a slot, from there to the first token, and from there to the end.

        Preparing a request counts as waiting in line, which it does meanwhile.
        """
        times = [each.times for each in self._choices.generations.values()]
        admitted = _first(each.admitted for each in times)
        first_token = _first(each.first_token for each in times)
        arrived = _first(each.arrived for each in times)
        return {
            "queue_s": _span(arrived, admitted),
            "prefill_s": _span(admitted, first_token),
            "decode_s": _span(first_token, _last(times)),
        }


def _first(moments: Iterable[float | None]) -> float | None:
    return min((each for each in moments if each is not None), default=None)


def _last(times: list[Times]) -> float | None:
    return max((t.ended for t in times if t.ended is not None), default=None)


def _span(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)
