"""Whether an output is inside a thought."""

import pytest

from neuron.text.reasoning import ReasoningSyntax
from neuron.text.thought import ThoughtTracker

SYNTAX = ReasoningSyntax("<think>", "</think>")


@pytest.mark.parametrize(
    ("inside", "pieces", "thought"),
    [
        (True, ["a", "</think>", "b"], [True, True, False]),
        (True, ["a</thi", "nk>b"], [True, True]),
        (True, ["<think>a", "</think>b", "<think>c"], [True, True, False]),
        (False, ["<think>", "a", "</think>", "b"], [True, True, True, False]),
        (False, [" \n<thi", "nk>a"], [False, True]),
        (False, ["a", "<think>", "b"], [False, False, False]),
        (False, ["<", "b>", "<think>"], [False, False, False]),
        (False, ["<think></think>", "<think>", "a"], [True, True, True]),
        (False, ["", "<think>"], [False, True]),
    ],
)
def test_which_pieces_belong_to_a_thought(
    inside: bool, pieces: list[str], thought: list[bool]
) -> None:
    tracker = ThoughtTracker(SYNTAX, inside=inside)
    assert [tracker.feed(piece) for piece in pieces] == thought


def test_a_model_that_does_not_think_never_does() -> None:
    tracker = ThoughtTracker(None, inside=True)
    assert not tracker.inside
    assert not tracker.feed("<think>a")
