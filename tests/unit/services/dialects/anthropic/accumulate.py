"""Puts a stream's events together, as clients do, and minds their order."""

import orjson

from neuron.protocol.sse import SseParser
from services.gateway.dialects.base import Json

_DELTAS = {"text": "text", "thinking": "thinking", "signature": "signature"}


def events(raw: bytes) -> list[Json]:
    """The events of a stream; each is named as its data are."""
    found = []
    for event in SseParser().feed(raw):
        value: Json = orjson.loads(event.data)
        assert value["type"] == event.event
        found.append(value)
    return found


def message(raw: bytes) -> Json:
    """The message that a whole stream tells, without its pings."""
    told = [event for event in events(raw) if event["type"] != "ping"]
    assert told[0]["type"] == "message_start"
    assert [e["type"] for e in told[-2:]] == ["message_delta", "message_stop"]
    answer: Json = told[0]["message"]
    assert answer["content"] == []
    inputs: dict[int, str] = {}
    now: int | None = None
    for event in told[1:-2]:
        now = _content(event, answer["content"], inputs, now)
    assert now is None
    for index, text in inputs.items():
        answer["content"][index]["input"] = orjson.loads(text or "{}")
    delta = told[-2]
    usage: Json = answer["usage"] | delta["usage"]
    return {**answer, **delta["delta"], "usage": usage}


def _content(
    event: Json, content: list[Json], inputs: dict[int, str], now: int | None
) -> int | None:
    """One event about a block; returns which block is open after it."""
    match event["type"]:
        case "content_block_start":
            assert now is None
            assert event["index"] == len(content)
            content.append(event["content_block"])
            if content[-1]["type"] == "tool_use":
                inputs[event["index"]] = ""
            return len(content) - 1
        case "content_block_delta":
            assert event["index"] == now
            _delta(event["delta"], content[-1], inputs)
            return now
        case "content_block_stop":
            assert event["index"] == now
            return None
        case kind:
            raise AssertionError(f"{kind} inside a message")


def _delta(delta: Json, block: Json, inputs: dict[int, str]) -> None:
    kind = delta["type"].removesuffix("_delta")
    if kind == "input_json":
        inputs[max(inputs)] += delta["partial_json"]
        return
    field = _DELTAS[kind]
    assert field in block
    block[field] += delta[field]
