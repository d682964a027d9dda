"""Answers in OpenAI's shapes: chat and text completions, whole and in chunks."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from neuron.text.detokenizer import Detokenizer
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.generation import Delta, FinishReason, Generation, ScoredToken, Times


class Format(Protocol):
    """How one route words its answers."""

    CHUNK: ClassVar[str]
    WHOLE: ClassVar[str]
    """`object` of a stream's chunks, and of a whole answer."""

    def opening(self) -> dict[str, Any] | None:
        """The choice that begins a stream, before any text."""

    def part(self, delta: Delta) -> dict[str, Any]:
        """A choice with more text."""

    def end(self, reason: FinishReason) -> dict[str, Any]:
        """The choice that ends a stream."""

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The one choice of an answer that is not streamed."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk and every whole answer of one request carries."""

    id: str
    model: str
    kind: str
    created: int

    @classmethod
    def new(cls, request_id: str, model: str, kind: str) -> "Envelope":
        return cls(request_id, model, kind, int(time.time()))

    def wrap(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


@dataclass(frozen=True, slots=True)
class TokenWords:
    """Spells single tokens for log-probabilities."""

    tokenizer: TextTokenizer

    def text(self, token_id: int) -> str:
        """The token's own text, a leading space included; its name if it has none."""
        if self.tokenizer.is_silent(token_id):
            return self.tokenizer.token(token_id)
        detokenizer = Detokenizer(self.tokenizer, self._anchor())
        return detokenizer.feed(token_id) + detokenizer.flush()

    def _anchor(self) -> list[int]:
        """Any text in front, so that the token is not at the very beginning."""
        return self.tokenizer.encode("a", add_bos=False)

    def bytes(self, token_id: int) -> list[int]:
        byte = self.tokenizer.byte_of(token_id)
        if byte is not None:
            return [byte]
        return list(self.text(token_id).encode())


class ChatFormat:
    """/v1/chat/completions."""

    CHUNK: ClassVar[str] = "chat.completion.chunk"
    WHOLE: ClassVar[str] = "chat.completion"

    def __init__(self, words: TokenWords, scored: bool) -> None:
        self._words = words
        self._scored = scored

    def opening(self) -> dict[str, Any] | None:
        return self._choice({"role": "assistant", "content": ""})

    def part(self, delta: Delta) -> dict[str, Any]:
        return self._choice({"content": delta.text}, delta.tokens)

    def end(self, reason: FinishReason) -> dict[str, Any]:
        return self._choice({}, reason=reason)

    def whole(self, delta: Delta) -> dict[str, Any]:
        return {
            "index": 0,
            "message": {"role": "assistant", "content": delta.text},
            "logprobs": self._logprobs(delta.tokens),
            "finish_reason": delta.finish_reason,
        }

    def _choice(
        self,
        delta: dict[str, Any],
        tokens: list[ScoredToken] | None = None,
        reason: FinishReason | None = None,
    ) -> dict[str, Any]:
        return {
            "index": 0,
            "delta": delta,
            "logprobs": self._logprobs(tokens or []) if tokens else None,
            "finish_reason": reason,
        }

    def _logprobs(self, tokens: list[ScoredToken]) -> dict[str, Any] | None:
        if not self._scored:
            return None
        content = [
            {
                **self._score(token.token_id, token.logprobs.chosen),
                "top_logprobs": [self._score(*top) for top in token.logprobs.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _score(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._words.text(token_id),
            "logprob": max(logprob, _LEAST),
            "bytes": self._words.bytes(token_id),
        }


_LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have (OpenAI's value)."""


class CompletionFormat:
    """/v1/completions."""

    CHUNK: ClassVar[str] = "text_completion"
    WHOLE: ClassVar[str] = "text_completion"

    def __init__(self, words: TokenWords, scored: bool) -> None:
        self._words = words
        self._scored = scored
        self._offset = 0

    def opening(self) -> dict[str, Any] | None:
        return None

    def part(self, delta: Delta) -> dict[str, Any]:
        return self._choice(delta.text, delta.tokens, None)

    def end(self, reason: FinishReason) -> dict[str, Any]:
        return self._choice("", [], reason)

    def whole(self, delta: Delta) -> dict[str, Any]:
        return self._choice(delta.text, delta.tokens, delta.finish_reason)

    def _choice(
        self, text: str, tokens: list[ScoredToken], reason: FinishReason | None
    ) -> dict[str, Any]:
        return {
            "index": 0,
            "text": text,
            "logprobs": self._logprobs(tokens),
            "finish_reason": reason,
        }

    def _logprobs(self, tokens: list[ScoredToken]) -> dict[str, Any] | None:
        if not self._scored:
            return None
        texts = [self._words.text(token.token_id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [max(t.logprobs.chosen, _LEAST) for t in tokens],
            "top_logprobs": [
                {self._words.text(i): max(p, _LEAST) for i, p in t.logprobs.top}
                for t in tokens
            ],
            "text_offset": offsets,
        }


def usage(generation: Generation) -> dict[str, Any]:
    """Token counts; cached ones are part of the prompt's, not on top of them."""
    prompt = len(generation.request.prompt_ids)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": prompt + generation.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def timings(times: Times) -> dict[str, float | None]:
    """Seconds in line, from there to the first token, and from there to the end."""
    return {
        "queue_s": _span(times.arrived, times.admitted),
        "prefill_s": _span(times.admitted, times.first_token),
        "decode_s": _span(times.first_token, times.ended),
    }


def _span(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)
