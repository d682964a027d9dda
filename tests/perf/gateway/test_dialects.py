"""What it costs the gateway to word a streamed answer, beside passing its bytes on."""

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from neuron.protocol import sse
from services.gateway.dialects.anthropic import translate_messages
from services.gateway.dialects.base import Translation
from services.gateway.dialects.ollama.request import translate_chat
from services.gateway.dialects.responses.request import NO_MEMORY, translate
from services.gateway.meter import StreamMeter
from services.gateway.wording import Translated, Untouched, Wording

pytestmark = pytest.mark.perf

TOKENS = 2000
ROUNDS = 5
HELLO = [{"role": "user", "content": "hello"}]
ASKED: dict[str, Any] = {"model": "m", "stream": True}


def chunk(delta: dict[str, Any], n: int, reason: str | None = None) -> bytes:
    """As the neuron writes it, with its usage so far."""
    value = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": n,
            "total_tokens": 100 + n,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    return sse.encode(orjson.dumps(value))


STREAM = [
    chunk({"role": "assistant", "content": ""}, 0),
    *(chunk({"content": f" w{n}"}, n) for n in range(1, TOKENS)),
    chunk({}, TOKENS, "stop") + sse.DONE,
]


def microseconds(new: Callable[[], Wording]) -> float:
    """Per event, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        wording, meter = new(), StreamMeter()
        began = time.perf_counter()
        for data in STREAM:
            meter.feed(data)
            wording.feed(data)
        wording.end()
        best = min(best, time.perf_counter() - began)
        assert meter.done
    return best / len(STREAM) * 1e6


def worded_by(new: Callable[[], Translation]) -> Callable[[], Wording]:
    return lambda: Translated(new().writer())


def test_what_words_cost() -> None:
    translations: dict[str, Callable[[], Translation]] = {
        "anthropic": lambda: translate_messages(
            {**ASKED, "messages": HELLO, "max_tokens": 9}
        ),
        "responses": lambda: translate({**ASKED, "input": "hello"}, NO_MEMORY),
        "ollama": lambda: translate_chat({**ASKED, "messages": HELLO}),
    }
    plain = microseconds(Untouched)
    table = [f"{'untouched':12}{plain:8.2f} µs/event"]
    for name, new in translations.items():
        took = microseconds(worded_by(new))
        table.append(f"{name:12}{took:8.2f} µs/event   ratio {took / plain:.1f}")
    print("", *table, sep="\n")  # noqa: T201
