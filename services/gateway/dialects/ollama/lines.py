"""Answers and their parts, from the neuron's words into Ollama's."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from services.gateway.dialects.base import Json
from services.gateway.dialects.usage import Usage

_NS: Final = 1_000_000_000


@dataclass(slots=True)
class Said:
    """Some of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    calls: list[Json] = field(default_factory=list)
    """Complete ones, in Ollama's words."""
    logprobs: list[Json] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.calls or self.logprobs)

    @classmethod
    def of(cls, choice: Json) -> "Said":
        """What a choice says, of a chat or a text, streamed or whole; not its calls."""
        said = choice.get("delta") or choice.get("message") or choice
        return cls(
            said.get("content") or said.get("text") or "",
            said.get("reasoning_content") or "",
            logprobs=_logprobs(choice.get("logprobs") or {}),
        )


def as_message(said: Said) -> Json:
    """For /api/chat."""
    message: Json = {"role": "assistant", "content": said.text}
    if said.thinking:
        message["thinking"] = said.thinking
    if said.calls:
        message["tool_calls"] = said.calls
    return {"message": message, **_scores(said)}


def as_response(said: Said) -> Json:
    """For /api/generate, where no tools are and thus no calls."""
    thinking = {"thinking": said.thinking} if said.thinking else {}
    return {"response": said.text, **thinking, **_scores(said)}


def line(model: str, words: Json, end: Json | None = None) -> Json:
    """One object of an answer; the last one where there is an `end`."""
    return {
        "model": model,
        "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        **words,
        "done": end is not None,
        **(end or {}),
    }


def ending(reason: str, usage: Usage | None, timings: Any, total_s: float) -> Json:
    """Why the answer ended, what it used and how long it took, in nanoseconds.

    What is before the prompt's evaluation is `load_duration`: the load where there was
    one, and the wait for a slot.
    """
    timings = timings or {}
    prefill, decode = timings.get("prefill_s") or 0, timings.get("decode_s") or 0
    counts: Json = {}
    if usage is not None:
        counts = {"prompt_eval_count": usage.prompt, "eval_count": usage.completion}
    return {
        # Ollama does not tell calls from other good ends.
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": int(total_s * _NS),
        "load_duration": int(max(total_s - prefill - decode, 0) * _NS),
        "prompt_eval_duration": int(prefill * _NS),
        "eval_duration": int(decode * _NS),
        **counts,
    }


def _scores(said: Said) -> Json:
    return {"logprobs": said.logprobs} if said.logprobs else {}


def _logprobs(scores: Json) -> list[Json]:
    """A chat's are worded alike; a text's are lists, one of each kind."""
    if "tokens" not in scores:
        return list(scores.get("content") or [])
    likely = scores.get("top_logprobs") or [None] * len(scores["tokens"])
    return [
        {"token": token, "logprob": logprob, "top_logprobs": _ranked(top or {})}
        for token, logprob, top in zip(
            scores["tokens"], scores["token_logprobs"], likely, strict=True
        )
    ]


def _ranked(top: dict[str, float]) -> list[Json]:
    ranked = sorted(top.items(), key=lambda item: -item[1])
    return [{"token": token, "logprob": logprob} for token, logprob in ranked]
