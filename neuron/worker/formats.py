"""Answers in OpenAI's shapes: chat and text completions, whole and in chunks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Protocol

from neuron.engines.base import TokenLogprobs
from neuron.worker.reply import CallDelta, Delta, FinishReason, ScoredToken
from neuron.worker.token_words import TokenWords

_LEAST: Final = -9999.0
"""Stands for minus infinity, which JSON does not have (OpenAI's value)."""


class Format(Protocol):
    """How one route words one choice."""

    CHUNK: ClassVar[str]
    WHOLE: ClassVar[str]
    """`object` of a stream's chunks, and of a whole answer."""
    PROMPT_IN_CHOICE: ClassVar[bool]
    """What is told of the prompt is part of its choices, not of the whole."""

    def opening(self) -> dict[str, Any] | None:
        """The choice that begins a stream, before any text."""

    def parts(self, delta: Delta) -> list[dict[str, Any]]:
        """Choices with more of the answer, each for a chunk of its own."""

    def end(self, delta: Delta) -> dict[str, Any]:
        """The choice that ends a stream, as the last delta says."""

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""


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


def worded_prompt(
    ids: Sequence[int],
    scores: Sequence[TokenLogprobs | None],
    top: int,
    words: TokenWords,
) -> list[dict[str, Any] | None]:
    """A prompt's log-probabilities as vLLM words them, token by token.

    Each token comes first, then the `top` likeliest ones in its place. Its rank is told
    where it is one of those the engine named.
    """
    worded: list[dict[str, Any] | None] = []
    for token_id, score in zip(ids, scores, strict=True):
        if score is None:
            worded.append(None)
            continue
        ranks = {i: rank for rank, (i, _) in enumerate(score.top, 1)}
        likely = {token_id: score.chosen} | dict(score.top[:top])
        worded.append({
            str(i): {
                "logprob": max(logprob, _LEAST),
                "rank": ranks.get(i),
                "decoded_token": words.name(i),
            }
            for i, logprob in likely.items()
        })  # fmt: skip
    return worded


class ChatFormat:
    """/v1/chat/completions."""

    CHUNK: ClassVar[str] = "chat.completion.chunk"
    WHOLE: ClassVar[str] = "chat.completion"
    PROMPT_IN_CHOICE: ClassVar[bool] = False

    def __init__(self, index: int, words: TokenWords, scored: int | None) -> None:
        self._index = index
        self._words = words
        self._scored = scored

    def opening(self) -> dict[str, Any] | None:
        return self._choice({"role": "assistant", "content": ""})

    def parts(self, delta: Delta) -> list[dict[str, Any]]:
        told: dict[str, Any] = {}
        if delta.reasoning:
            told["reasoning_content"] = delta.reasoning
        if delta.text:
            told["content"] = delta.text
        # The name comes first, however much of the arguments there is already.
        started = [replace(c, arguments="") for c in delta.calls if c.name is not None]
        more = [replace(c, name=None) for c in delta.calls if c.arguments]
        if started:
            told["tool_calls"] = _calls(started)
        parts = []
        if told or delta.tokens or delta.token_ids:
            parts.append(self._choice(told, delta.tokens) | _ids(delta))
        if more:
            parts.append(self._choice({"tool_calls": _calls(more)}))
        return parts

    def end(self, delta: Delta) -> dict[str, Any]:
        return self._choice({}, reason=delta.finish_reason) | _stop(delta)

    def whole(self, delta: Delta) -> dict[str, Any]:
        only_calls = delta.calls and not delta.text.strip()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if only_calls else delta.text,
        }
        if delta.reasoning:
            message["reasoning_content"] = delta.reasoning
        if delta.calls:
            message["tool_calls"] = [_call(call) for call in delta.calls]
        return {
            "index": self._index,
            "message": message,
            "logprobs": self._logprobs(delta.tokens),
            "finish_reason": delta.finish_reason,
            **_stop(delta),
            **_ids(delta),
        }

    def _choice(
        self,
        delta: dict[str, Any],
        tokens: list[ScoredToken] | None = None,
        reason: FinishReason | None = None,
    ) -> dict[str, Any]:
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": self._logprobs(tokens or []) if tokens else None,
            "finish_reason": reason,
        }

    def _logprobs(self, tokens: list[ScoredToken]) -> dict[str, Any] | None:
        if self._scored is None:
            return None
        content = [
            {
                **self._score(token.token_id, scores.chosen),
                "top_logprobs": [self._score(*top) for top in scores.top],
            }
            for token in tokens
            if (scores := token.logprobs) is not None
        ]
        return {"content": content, "refusal": None}

    def _score(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._words.name(token_id),
            "logprob": max(logprob, _LEAST),
            "bytes": self._words.bytes(token_id),
        }


def _stop(delta: Delta) -> dict[str, Any]:
    return {"stop_reason": delta.stop_reason}


def _ids(delta: Delta) -> dict[str, Any]:
    return {} if delta.token_ids is None else {"token_ids": delta.token_ids}


def _calls(calls: list[CallDelta]) -> list[dict[str, Any]]:
    return [{"index": call.index, **_call(call)} for call in calls]


def _call(call: CallDelta) -> dict[str, Any]:
    """A whole call or its beginning, where it has a name; else more of it."""
    if call.name is None:
        return {"function": {"arguments": call.arguments}}
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


class CompletionFormat:
    """/v1/completions."""

    CHUNK: ClassVar[str] = "text_completion"
    WHOLE: ClassVar[str] = "text_completion"
    PROMPT_IN_CHOICE: ClassVar[bool] = True

    def __init__(self, index: int, words: TokenWords, scored: int | None) -> None:
        self._index = index
        self._words = words
        self._scored = scored
        self._offset = 0

    def opening(self) -> dict[str, Any] | None:
        return None

    def parts(self, delta: Delta) -> list[dict[str, Any]]:
        return [self._choice(delta.text, delta.tokens, None) | _ids(delta)]

    def end(self, delta: Delta) -> dict[str, Any]:
        return self._choice("", [], delta.finish_reason) | _stop(delta)

    def whole(self, delta: Delta) -> dict[str, Any]:
        choice = self._choice(delta.text, delta.tokens, delta.finish_reason)
        return choice | _stop(delta) | _ids(delta)

    def _choice(
        self, text: str, tokens: list[ScoredToken], reason: FinishReason | None
    ) -> dict[str, Any]:
        return {
            "index": self._index,
            "text": text,
            "logprobs": self._logprobs(tokens),
            "finish_reason": reason,
        }

    def _logprobs(self, tokens: list[ScoredToken]) -> dict[str, Any] | None:
        if (top := self._scored) is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += token.chars
        scores = [token.logprobs for token in tokens]
        return {
            "tokens": [self._words.name(token.token_id) for token in tokens],
            "token_logprobs": [s and max(s.chosen, _LEAST) for s in scores],
            "top_logprobs": [self._likely(token, top) for token in tokens],
            "text_offset": offsets,
        }

    def _likely(self, token: ScoredToken, top: int) -> dict[str, float] | None:
        """The likeliest and the token itself; of those spelt alike, the likelier."""
        if (scores := token.logprobs) is None:
            return None
        likely: dict[str, float] = {}
        for token_id, logprob in (*scores.top[:top], (token.token_id, scores.chosen)):
            likely.setdefault(self._words.name(token_id), max(logprob, _LEAST))
        return likely
