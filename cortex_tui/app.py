"""The console: one store, one tick, one screen, and dialogs built once."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.app import App

from cortex_tui.actions import Situation, available, by_id
from cortex_tui.commands import Commands
from cortex_tui.dialogs.base import Dialog
from cortex_tui.dialogs.choice import ChoiceDialog
from cortex_tui.dialogs.help import HelpDialog
from cortex_tui.dialogs.keys import KeysDialog
from cortex_tui.dialogs.load import LoadDialog
from cortex_tui.dialogs.palette import PaletteDialog
from cortex_tui.dialogs.test import TestDialog
from cortex_tui.format import glyphs
from cortex_tui.screens.fleet import FleetScreen
from cortex_tui.session import Session, View
from cortex_tui.store import FleetStore, Link
from cortex_tui.themes import CORTEX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from cortex_tui.target import Target

TICK_S = 0.25
BLURRED_EVERY = 4
NOTICE_S = 6.0
QUESTION_S = 15.0
_DIALOGS: dict[str, type[Dialog[Any]]] = {
    "choice": ChoiceDialog,
    "load": LoadDialog,
    "palette": PaletteDialog,
    "test": TestDialog,
    "help": HelpDialog,
    "keys": KeysDialog,
}
D = TypeVar("D", bound=Dialog[Any])


@dataclass(frozen=True, slots=True)
class Options:
    """How the console was started."""

    attach: Target | None = None
    config: Path | None = None
    readonly: bool = False
    ascii_only: bool = False
    now: Callable[[], float] = time.time
    view: View | None = None
    label: str | None = None
    """The gateway's name in the status line, instead of its address."""


class CortexApp(App[None]):
    """Wires store, session, screen and commands together, and ticks."""

    CSS_PATH = "app.tcss"
    TITLE = "cortex"
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        # Without colour, the terminal's own two colours: not shades of grey.
        super().__init__(ansi_color="NO_COLOR" in os.environ)
        self.options = options
        self.glyphs = glyphs(options.ascii_only)
        self.actions = available(readonly=options.readonly)
        self.store = FleetStore()
        self.session = Session(
            self.store,
            attach=options.attach,
            config=options.config,
            now=options.now,
            view=options.view,
            tell=lambda text: self.say(text, "warn"),
        )
        self.fleet = FleetScreen(self.store, self.glyphs)
        self.commands = Commands(self)
        self.farewell = ""
        self._dialogs: dict[type, Dialog[Any]] = {}
        self._shown: tuple[int, int] = (-1, -1)
        self._ticks = 0
        self._frozen = False
        self._notice_until = 0.0
        self._question: Callable[[], Awaitable[None]] | None = None

    def get_default_screen(self) -> FleetScreen:
        return self.fleet

    def on_mount(self) -> None:
        self.register_theme(CORTEX)
        self.theme = CORTEX.name
        self.set_class(self.options.ascii_only, "-ascii")
        for name, kind in _DIALOGS.items():
            dialog = kind()
            dialog.glyphs = self.glyphs
            self._dialogs[kind] = dialog
            self.install_screen(dialog, name)
        help_ = self.dialog(HelpDialog)
        help_.actions, help_.readonly = self.actions, self.options.readonly

    def start(self) -> None:
        """The screen stands: tick, and look for the gateway once it is painted."""
        self.refresh_fleet()
        self.set_interval(TICK_S, self._tick)
        self.call_after_refresh(self._connect)

    def on_unmount(self) -> None:
        gc.unfreeze()

    def dialog(self, kind: type[D]) -> D:
        """The one dialog of that kind."""
        dialog = self._dialogs[kind]
        assert isinstance(dialog, kind)
        return dialog

    def situation(self) -> Situation:
        """What the actions depend on, now."""
        model = self.fleet.selected_model
        return Situation(
            model=model,
            under_way=self.store.under_way(model.id) if model else None,
            connected=self.store.link is Link.LIVE,
            can_undo=bool(self.commands.undo_stack),
        )

    def can(self, name: str) -> bool:
        """Whether the action is there, and makes sense now."""
        action = by_id(name)
        return action in self.actions and action.enabled(self.situation())

    def perform(self, name: str) -> None:
        """Do an action; a question that waits is answered with no instead."""
        if self._question is not None:
            self.answer(yes=False)
            return
        self._notice_until = 0.0
        self.run_worker(self.commands.run(name), group="commands")

    def say(self, text: str, tone: str = "", *, hold: bool = False) -> None:
        """Tell what has happened, in the key line, for a few seconds."""
        self._notice_until = float("inf") if hold else time.monotonic() + NOTICE_S
        self.fleet.keys.say(text, tone)

    def ask(self, question: str, then: Callable[[], Awaitable[None]]) -> None:
        """Ask in the key line; only `y` does it."""
        self._question = then
        self._notice_until = time.monotonic() + QUESTION_S
        self.fleet.keys.ask(question)

    def answer(self, *, yes: bool) -> None:
        """Answer the question that waits, if one does."""
        question, self._question = self._question, None
        self._notice_until = 0.0
        if question is not None and yes:
            self.run_worker(_awaited(question), group="commands")
        self._show_keys()

    def refresh_fleet(self) -> None:
        """Show the store as it is now; nothing once the console shuts down."""
        if not self.is_running:
            return
        now = self.options.now()
        self._shown = (self.store.version, int(now))
        if self.options.label is not None:
            self.fleet.gateway_label = self.options.label
        elif self.session.target is not None:
            self.fleet.gateway_label = self.session.target.label
        self.fleet.sync(now)
        self._show_keys()

    async def action_quit(self) -> None:
        """Close what is open; from the fleet itself, leave."""
        if isinstance(self.screen, Dialog):
            self.screen.action_cancel()
        else:
            self.perform("quit")

    def _connect(self) -> None:
        self.run_worker(self.session.run(), group="session", name="session")

    def _tick(self) -> None:
        self._ticks += 1
        away = not self.app_focus and self._ticks % BLURRED_EVERY
        if away or not self.is_running:
            return
        now = self.options.now()
        self.store.expire(now)
        if (self.store.version, int(now)) != self._shown:
            self.refresh_fleet()
        else:
            self._show_keys()
        if not self._frozen and self.store.link is Link.LIVE:
            # Everything is imported and mounted: the collector need not walk it again.
            self._frozen = True
            gc.collect()
            gc.freeze()

    def _show_keys(self) -> None:
        if time.monotonic() < self._notice_until:
            return
        self._question = None
        self.fleet.show_keys(self.actions, self.situation())


async def _awaited(call: Callable[[], Awaitable[None]]) -> None:
    await call()
