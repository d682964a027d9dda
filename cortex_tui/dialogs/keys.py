"""Who may use the gateway, how much, and what they have spent; to look at only."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding, BindingType

from cortex_tui import format as f
from cortex_tui.dialogs.base import Dialog
from cortex_tui.key_rows import KEYS, key_rows, summary
from cortex_tui.plain_http import Refused, Unreachable
from cortex_tui.widgets.live_table import LiveTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.app import ComposeResult

    from services.schema import KeyList

MANAGE = "cortex-tui keys add, revoke, rotate"


class KeysDialog(Dialog[None]):
    """Asks the gateway again every `refresh_s` seconds while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("K,q,enter", "cancel", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
    ]
    fetch: Callable[[], Awaitable[KeyList]] | None = None
    refresh_s = 2.0
    now: Callable[[], float] = staticmethod(time.time)
    table = getters.query_one("#keys", LiveTable)

    def content(self) -> ComposeResult:
        yield LiveTable("", KEYS, id="keys", always_selected=True)

    def fill(self) -> None:
        self.box.border_title = "API keys"
        self.table.glyphs = self.glyphs
        self.table.ruled = False
        self.table.set_rows([])
        self.table.clear_selection()
        self.table.label("asking the gateway")
        self._fit(0)
        self.show_keys(("esc", "close"), ("", MANAGE))
        self.run_worker(self._follow(), exclusive=True, group="keys")

    def action_cancel(self) -> None:
        self.workers.cancel_group(self, "keys")
        super().action_cancel()

    def action_move(self, step: int) -> None:
        self.table.move(step)

    async def _follow(self) -> None:
        assert self.fetch is not None
        while True:
            try:
                self._show(await self.fetch())
            except (Refused, Unreachable) as error:
                self.table.label(f.clean(str(error)))
            await asyncio.sleep(self.refresh_s)

    def _show(self, keys: KeyList) -> None:
        self.table.label(f.clean(keys.warning or summary(keys)))
        self._fit(len(keys.keys))
        self.table.set_rows(key_rows(keys.keys, self.glyphs, self.now()))

    def _fit(self, rows: int) -> None:
        """As high as its rows, as far as the screen is."""
        self.table.styles.height = 2 + min(max(1, rows), max(1, self.size.height - 8))
