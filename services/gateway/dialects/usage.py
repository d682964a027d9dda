"""The tokens of an answer, as the neuron counts them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts from the answer's own `usage`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Those of the prompt that the prefix cache held."""
    reasoning: int = 0
    """Those of the completion that were thought."""

    @classmethod
    def of(cls, answer: Any) -> "Usage | None":
        """From a decoded answer or event, where it has one."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if not isinstance(usage, dict):
            return None
        return cls(
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
            _count(usage.get("prompt_tokens_details"), "cached_tokens"),
            _count(usage.get("completion_tokens_details"), "reasoning_tokens"),
        )


def _count(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, dict) else None
    return value if isinstance(value, int) and value > 0 else 0
