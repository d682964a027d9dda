"""What each agent prints at the end of a turn, and what it needs for it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """The model's answer as the agent understood it."""

    text: str
    prompt: int | None = None
    """Tokens that it was told of; None where it does not say."""
    completion: int | None = None


Read = Callable[[str], Turn]
"""From what it printed."""


def printed(output: str) -> Turn:
    return Turn(output)


def claude_code(output: str) -> Turn:
    said = json.loads(output)
    assert (said["subtype"], said["is_error"]) == ("success", False), output
    usage = said["usage"]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    return Turn(said["result"], prompt, usage["output_tokens"])


def codex(output: str) -> Turn:
    events = [*_lines(output)]
    messages = (each.get("item", {}) for each in events)
    (text,) = [each["text"] for each in messages if each.get("type") == "agent_message"]
    (usage,) = [each["usage"] for each in events if each["type"] == "turn.completed"]
    return Turn(text, usage["input_tokens"], usage["output_tokens"])


def opencode(output: str) -> Turn:
    parts = [each["part"] for each in _lines(output)]
    (text,) = [part["text"] for part in parts if part["type"] == "text"]
    *_, tokens = [part["tokens"] for part in parts if part["type"] == "step-finish"]
    return Turn(text, tokens["input"] + tokens["cache"]["read"], tokens["output"])


def cline(output: str) -> Turn:
    *_, end = _lines(output)
    assert (end["type"], end["finishReason"]) == ("run_result", "completed")
    return Turn(end["text"], end["usage"]["inputTokens"], end["usage"]["outputTokens"])


def qwen_code(output: str) -> Turn:
    *_, end = json.loads(output)
    assert (end["type"], end["is_error"]) == ("result", False)
    (model,) = end["stats"]["models"].values()
    # Its `usage` counts what it asks for besides, too.
    tokens = model["bySource"]["main"]["tokens"]
    return Turn(end["result"], tokens["prompt"], tokens["candidates"])


def pi(output: str) -> Turn:
    *_, end = _lines(output)
    answer = end["messages"][-1]
    assert (end["type"], answer["stopReason"]) == ("agent_end", "stop")
    text = "".join(part.get("text", "") for part in answer["content"])
    usage = answer["usage"]
    return Turn(text, usage["input"] + usage["cacheRead"], usage["output"])


def _lines(output: str) -> Iterator[Any]:
    return map(json.loads, output.splitlines())
