"""Large requests and answers: what they take grows as they do, and no faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway.dialects.responses.request import translate
from services.gateway.dialects.responses.scores import TextScores

MANY = 40_000
BOUND_S = 6.0
"""Several times of what each takes, and a fraction of what its square would."""


@contextmanager
def quickly() -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < BOUND_S


def test_thoughts_in_a_row() -> None:
    part = {"type": "reasoning_text", "text": "x" * 50}
    items = [{"type": "reasoning", "content": [part]}] * MANY
    with quickly():
        [message] = translate({"model": "m", "input": items}).body["messages"]
    assert message["reasoning_content"] == "\n\n".join([part["text"]] * MANY)


def test_tools_allowed_by_their_bare_names() -> None:
    tools = [{"type": "function", "name": f"f{i}"} for i in range(MANY)]
    with quickly():
        read = translate(
            {
                "model": "m",
                "input": "Hi",
                "tools": [{"type": "namespace", "name": "all", "tools": tools}],
                "tool_choice": {
                    "type": "allowed_tools", "mode": "auto", "tools": tools,
                },
            }
        )  # fmt: skip
    allowed = read.body["tool_choice"]["allowed_tools"]["tools"]
    assert allowed[-1]["function"]["name"] == f"all__f{MANY - 1}"


def test_scores_of_a_whole_answer() -> None:
    scores = TextScores()
    tokens = [{"token": "a", "bytes": [97]} for _ in range(10 * MANY)]
    with quickly():
        scores.add(tokens)
        assert scores.take("a" * len(tokens)) == tokens
