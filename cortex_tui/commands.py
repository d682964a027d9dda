"""What the keys do: one method an action, on top of the session and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortex_tui import format as f
from cortex_tui.dialogs.choice import Choice, ChoiceDialog, Question
from cortex_tui.dialogs.keys import KeysDialog
from cortex_tui.dialogs.load import LoadDialog, Place, present
from cortex_tui.dialogs.palette import PaletteDialog
from cortex_tui.dialogs.test import TestDialog
from cortex_tui.plain_http import Refused, Unreachable
from cortex_tui.rows import placed
from cortex_tui.undo import Step, UndoStack, Verb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cortex_tui.app import CortexApp
    from services.schema import ModelView

DRAIN_S = 600.0
_SAID: dict[Verb, str] = {
    "pin": "pinned {}",
    "unpin": "unpinned {}",
    "load": "loading {}",
    "unload": "unloading {}",
}


class Commands:
    """The operator's verbs; each asks as loudly as what it disturbs."""

    def __init__(self, app: CortexApp) -> None:
        self._app = app
        self.undo_stack = UndoStack()
        self._handlers: dict[str, Callable[[], Awaitable[None] | None]] = {
            "model.load": self.load,
            "model.unload": self.unload,
            "model.pin": self.pin,
            "model.test": self.test,
            "undo": self.undo,
            "move.down": lambda: self._move(1),
            "move.up": lambda: self._move(-1),
            "move.top": lambda: self._move(-(10**6)),
            "move.bottom": lambda: self._move(10**6),
            "move.page_down": lambda: self._move(app.fleet.active_table.page),
            "move.page_up": lambda: self._move(-app.fleet.active_table.page),
            "panel.next": lambda: app.fleet.focus_panel(1),
            "panel.previous": lambda: app.fleet.focus_panel(-1),
            "filter": app.fleet.open_filter,
            "clear": lambda: app.fleet.close_filter(keep=False),
            "palette": self.palette,
            "keys": self.keys,
            "help": self.help,
            "quit": self.quit,
        }

    async def run(self, action: str) -> None:
        """Do what the action with that id says."""
        result = self._handlers[action]()
        if result is not None:
            await result

    async def load(self) -> None:
        if (model := self._app.fleet.selected_model) is None:
            return
        dialog = self._app.dialog(LoadDialog)
        dialog.model, dialog.store = model, self._app.store
        place: Place | None = await self._app.push_screen_wait(dialog)
        if place is None:
            return
        # Not to be offered for undoing: others may have loaded it, and use it.
        if there := present(self._app.store.models.get(model.id, model), place.node):
            said = f"{model.id} is {there.state} on {there.node} already"
            self._app.say(said)
            return
        await self._act(Step("load", model.id, place.node))

    async def unload(self) -> None:
        if (model := self._app.fleet.selected_model) is None:
            return
        replicas = placed(model)
        node = replicas[0].node if len(replicas) == 1 else None
        step = Step("unload", model.id, node)
        if _disturbs(model):
            await self._unload_disturbing(model, step)
            return
        where, frees = _held(model)
        question = f"unload {f.clean(model.id)} from {where}?  {frees}".rstrip()
        self._app.ask(question, lambda: self._act(step))

    async def _unload_disturbing(
        self, model: ModelView, step: Step, *, undoing: bool = False
    ) -> None:
        where, frees = _held(model)
        busy = model.running + model.waiting
        facts = [f"{model.running} running, {model.waiting} waiting"] if busy else []
        facts = ["pinned", *facts] if model.pinned else facts
        dialog = self._app.dialog(ChoiceDialog)
        streams = f.plural(busy, "request")
        choices = [Choice("c", "Cancel"), Choice("x", "Unload it all the same")]
        if busy:
            choices[1:] = [
                Choice("d", "Drain, then unload", f"{streams} may finish first"),
                Choice("x", "Unload now", f"ends {streams} with an error"),
            ]
        dialog.question = Question(
            title=f.middle(f"Unload {f.clean(model.id)} from {where}?", 66),
            facts="   ".join([*facts, *([frees] if frees else [])]),
            choices=choices,
        )
        answer: str | None = await self._app.push_screen_wait(dialog)
        if answer in ("d", "x"):
            drain_s = DRAIN_S if answer == "d" else 0.0
            await self._act(step, drain_s, undoing=undoing)

    async def pin(self) -> None:
        if (model := self._app.fleet.selected_model) is not None:
            await self._act(Step("unpin" if model.pinned else "pin", model.id))

    async def undo(self) -> None:
        if (step := self.undo_stack.pop()) is None:
            return
        model = self._app.store.models.get(step.model)
        if step.verb == "unload" and model is not None and _disturbs(model):
            await self._unload_disturbing(model, step, undoing=True)
            return
        await self._act(step, undoing=True)

    async def _act(
        self, step: Step, drain_s: float | None = None, *, undoing: bool = False
    ) -> None:
        app = self._app
        try:
            await app.session.act(step.verb, step.model, step.node, drain_s)
        except (Refused, Unreachable) as error:
            app.say(f"{step.verb} {step.model}: {error}", "bad")
            return
        said = _SAID[step.verb].format(f.clean(step.model))
        if undoing:
            app.say(said)
            return
        self.undo_stack.done(step)
        app.say(f"{said} {app.glyphs.dot} z undoes it")

    async def test(self) -> None:
        if (model := self._app.fleet.selected_model) is None:
            return
        dialog = self._app.dialog(TestDialog)
        dialog.model = model.id
        dialog.chat = "chat" in model.capabilities
        dialog.stream = self._app.session.prompt
        await self._app.push_screen_wait(dialog)

    async def palette(self) -> None:
        dialog = self._app.dialog(PaletteDialog)
        dialog.actions, dialog.situation = self._app.actions, self._app.situation()
        chosen: str | None = await self._app.push_screen_wait(dialog)
        if chosen is not None:
            await self.run(chosen)

    async def keys(self) -> None:
        dialog = self._app.dialog(KeysDialog)
        dialog.fetch, dialog.now = self._app.session.keys, self._app.options.now
        await self._app.push_screen_wait(dialog)

    async def help(self) -> None:
        await self._app.push_screen_wait("help")

    async def quit(self) -> None:
        """Detach; where the gateway is this console's own, ask whether to end it."""
        app = self._app
        if not app.session.owns_gateway:
            app.exit()
            return
        totals = app.store.totals()
        busy = totals.running + totals.waiting
        running = f"{f.plural(busy, 'request')} in flight" if busy else "it is idle"
        dialog = app.dialog(ChoiceDialog)
        dialog.question = Question(
            title="Quit",
            facts=f"This console started the gateway; {running}.",
            choices=(
                Choice("d", "Detach", "the gateway goes on serving"),
                Choice("s", "Stop the gateway", "lets requests finish" if busy else ""),
                Choice("c", "Cancel"),
            ),
            danger=False,
        )
        answer: str | None = await app.push_screen_wait(dialog)
        if answer == "d":
            app.farewell = "the gateway goes on; `cortex-tui stop` ends it"
            app.exit()
        elif answer == "s":
            await self._stop_gateway()

    async def _stop_gateway(self) -> None:
        self._app.say("stopping the gateway, after running requests", hold=True)
        try:
            await self._app.session.stop_gateway()
        except Unreachable as error:
            self._app.say(str(error), "bad")
            return
        self._app.farewell = "the gateway is stopped"
        self._app.exit()

    def _move(self, step: int) -> None:
        self._app.fleet.active_table.move(step)


def _disturbs(model: ModelView) -> bool:
    """Whether somebody would miss the model if it were unloaded now."""
    return bool(model.pinned or model.running or model.waiting)


def _held(model: ModelView) -> tuple[str, str]:
    """Where it is in memory, and what an unload gives back there."""
    replicas = placed(model)
    where = ", ".join(f.clean(replica.node) for replica in replicas) or "memory"
    known = [r.memory_mb for r in replicas if r.memory_mb is not None]
    return where, f"frees {f.mib(sum(known))}" if known else ""
