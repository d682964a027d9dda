"""The one registry of what an operator can do.

Key bindings, the footer, the help screen and the command palette are generated from
it, so that none of them can promise what another does not keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.schema import ModelView


class Tier(IntEnum):
    """What an action can hurt; console and command line ask accordingly."""

    HARMLESS = -1
    """Changes nothing outside this console."""
    REVERSIBLE = 0
    """Done at once; `z` undoes it."""
    COSTS_TIME = 1
    """Asks on one line, or in a dialog whose default is the recommended one."""
    DISTURBS = 2
    """Asks in a dialog that says who is disturbed; Cancel comes first."""


class Group(Enum):
    """Headings of the help screen."""

    MODELS = "Models"
    MOVE = "Move"
    CONSOLE = "Console"


@dataclass(frozen=True, slots=True)
class Situation:
    """What an action may depend on."""

    model: ModelView | None = None
    """The selected one."""
    under_way: str | None = None
    """What is being done to it already."""
    connected: bool = False
    can_undo: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `id` is stable, for rebinding; `verb` is the footer's word."""

    id: str
    keys: tuple[str, ...]
    verb: str
    help: str
    group: Group
    tier: Tier = Tier.HARMLESS
    footer: int | None = None
    """Place in the footer; the last ones go where there is no room."""
    always: bool = False
    """In the footer at any width, at its right end."""
    key_label: str | None = None

    @property
    def changes(self) -> bool:
        """Whether the gateway or a node is changed: what `--readonly` removes."""
        return self.tier is not Tier.HARMLESS

    @property
    def label(self) -> str:
        return self.key_label or self.keys[0]

    def verb_in(self, situation: Situation) -> str:
        """The footer's word, for what the key would do now."""
        if self.id == "model.pin" and situation.model and situation.model.pinned:
            return "unpin"
        return self.verb

    def enabled(self, situation: Situation) -> bool:
        """Whether it makes sense now; a disabled one stays visible, greyed."""
        check = _CHECKS.get(self.id)
        return check is None or check(situation)


ACTIONS = (
    Action(
        "model.load", ("l",), "load",
        "Load the selected model, on the best node or another",
        Group.MODELS, Tier.COSTS_TIME, footer=1,
    ),
    Action(
        "model.unload", ("u",), "unload",
        "Unload it; asks first, and says who is disturbed",
        Group.MODELS, Tier.COSTS_TIME, footer=2,
    ),
    Action(
        "model.pin", ("p",), "pin",
        "Pin or unpin it; a pinned model is never evicted",
        Group.MODELS, Tier.REVERSIBLE, footer=3,
    ),
    Action(
        "model.test", ("t",), "test",
        "Send a test prompt and watch the tokens arrive",
        Group.MODELS, Tier.COSTS_TIME, footer=4,
    ),
    Action(
        "undo", ("z",), "undo",
        "Undo what was done here last",
        Group.MODELS, Tier.REVERSIBLE, footer=7,
    ),
    Action(
        "move.down", ("j", "down"), "down", "Next row", Group.MOVE, key_label="j",
    ),
    Action("move.up", ("k", "up"), "up", "Previous row", Group.MOVE, key_label="k"),
    Action("move.top", ("g", "home"), "first", "First row", Group.MOVE),
    Action("move.bottom", ("G", "end"), "last", "Last row", Group.MOVE),
    Action("move.page_down", ("pagedown",), "page down", "One page on", Group.MOVE),
    Action("move.page_up", ("pageup",), "page up", "One page back", Group.MOVE),
    Action(
        "panel.next", ("tab",), "panel", "Next panel",
        Group.MOVE, footer=6,
    ),
    Action("panel.previous", ("shift+tab",), "back", "Previous panel", Group.MOVE),
    Action(
        "filter", ("/",), "filter",
        "Show models by words of name, state, node; or !word",
        Group.CONSOLE, footer=5,
    ),
    Action("clear", ("escape",), "clear", "Clear the filter", Group.CONSOLE,
        key_label="esc",
    ),
    Action(
        "palette", ("ctrl+p", ":"), "palette", "Find any of these by name",
        Group.CONSOLE, key_label=":",
    ),
    Action(
        "keys", ("K",), "keys", "API keys: their limits, and what they have spent",
        Group.CONSOLE,
    ),
    Action(
        "help", ("?",), "help", "These keys", Group.CONSOLE, footer=8, always=True,
    ),
    Action(
        "quit", ("q",), "quit",
        "Leave; the gateway goes on, unless you end it",
        Group.CONSOLE, footer=9, always=True,
    ),
)  # fmt: skip

_CHECKS: dict[str, Callable[[Situation], bool]] = {
    "model.load": lambda s: s.connected and s.model is not None and not s.under_way,
    "model.unload": lambda s: _has(s, "ready", "failed", "loading", "recovering"),
    "model.pin": lambda s: s.connected and s.model is not None,
    "model.test": lambda s: s.connected and s.model is not None,
    "undo": lambda s: s.connected and s.can_undo,
    "keys": lambda s: s.connected,
}


def _has(situation: Situation, *states: str) -> bool:
    model = situation.model
    return situation.connected and model is not None and model.state in states


def available(*, readonly: bool) -> tuple[Action, ...]:
    """The actions of this console; read-only ones have none that changes anything."""
    return tuple(action for action in ACTIONS if not (readonly and action.changes))


def by_id(name: str) -> Action:
    return next(action for action in ACTIONS if action.id == name)
