"""One registry: every action is whole, and read-only consoles have no dangerous one."""

import pytest

from cortex_tui.actions import (
    ACTIONS,
    Action,
    Situation,
    Tier,
    available,
    by_id,
)
from cortex_tui.undo import DEPTH, Step, UndoStack
from neuron.protocol.types import ModelState
from services.schema import ModelView


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.id)
def test_every_action_is_whole(action: Action) -> None:
    assert action.keys
    assert all(action.keys)
    assert action.verb
    assert len(action.help) > len("These")
    assert len(action.help) <= 56, "does not fit the help screen"
    assert by_id(action.id) is action


def test_no_key_and_no_id_means_two_things() -> None:
    keys = [key for action in ACTIONS for key in action.keys]
    assert len(keys) == len(set(keys))
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)


def test_no_action_needs_a_modifier_that_multiplexers_eat() -> None:
    for action in ACTIONS:
        plain = [key for key in action.keys if not key.startswith(("ctrl+", "alt+"))]
        assert plain, action.id


def test_readonly_has_nothing_that_changes_the_fleet() -> None:
    left = available(readonly=True)
    assert {a.tier for a in left} == {Tier.HARMLESS}
    assert {a.id for a in available(readonly=False)} - {a.id for a in left} == {
        "model.load",
        "model.unload",
        "model.pin",
        "model.test",
        "undo",
    }


def situation(state: ModelState, **fields: object) -> Situation:
    known: dict[str, object] = {"connected": True, **fields}
    return Situation(model=ModelView(id="a", state=state), **known)  # type: ignore[arg-type]


def test_enabled_when_it_makes_sense() -> None:
    unload, load, undo = by_id("model.unload"), by_id("model.load"), by_id("undo")
    assert unload.enabled(situation(ModelState.READY))
    assert unload.enabled(situation(ModelState.LOADING))
    assert not unload.enabled(situation(ModelState.UNLOADED))
    assert load.enabled(situation(ModelState.UNLOADED))
    assert not load.enabled(situation(ModelState.UNLOADED, under_way="load"))
    assert not load.enabled(situation(ModelState.UNLOADED, connected=False))
    assert not load.enabled(Situation(connected=True))
    assert undo.enabled(situation(ModelState.READY, can_undo=True))
    assert not undo.enabled(situation(ModelState.READY))
    assert by_id("help").enabled(Situation())


def test_the_pin_key_says_what_it_would_do() -> None:
    pinned = Situation(model=ModelView(id="a", pinned=True), connected=True)
    assert by_id("model.pin").verb_in(pinned) == "unpin"
    assert by_id("model.pin").verb_in(situation(ModelState.READY)) == "pin"


def test_undo_is_the_inverse_newest_first() -> None:
    stack = UndoStack()
    assert not stack
    assert stack.pop() is None
    stack.done(Step("pin", "a"))
    stack.done(Step("unload", "b", "atlas"))
    assert stack.pop() == Step("load", "b", "atlas")
    assert stack.pop() == Step("unpin", "a")
    assert not stack


def test_undo_forgets_the_oldest() -> None:
    stack = UndoStack()
    for number in range(DEPTH + 5):
        stack.done(Step("pin", str(number)))
    undone = [stack.pop() for _ in range(DEPTH)]
    assert undone[-1] == Step("unpin", "5")
    assert not stack
