"""A test prompt: does it answer, how soon, how fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cortex_tui import format as f
from cortex_tui.dialogs.base import Dialog
from cortex_tui.plain_http import Refused, Unreachable
from cortex_tui.widgets.line_input import Line

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from cortex_tui.client import Piece

PROMPTS = {True: "Tell me a very short story.", False: "Once upon a time"}
MAX_TOKENS = 160
PAINT_S = 0.1

Stream = Callable[[str, str, bool, int], AsyncGenerator["Piece", None]]
"""(model, prompt, chat, max_tokens) → the answer, piece by piece."""


@dataclass(slots=True)
class Answer:
    """What has arrived, and when; times by a monotonic clock."""

    sent: float
    text: str = ""
    first: float | None = None
    last: float | None = None
    tokens: int = 0
    finish: str | None = None

    def add(self, piece: Piece, now: float) -> None:
        """Count a piece as a token until the final usage says the exact number."""
        if piece.text:
            self.text += piece.text
            self.tokens += 1
            self.first = self.first or now
            self.last = now
        self.finish = piece.finish or self.finish
        self.tokens = piece.completion_tokens or self.tokens

    @property
    def ttft_s(self) -> float | None:
        return None if self.first is None else self.first - self.sent

    @property
    def tok_s(self) -> float | None:
        """Decoded tokens per second after the first one."""
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        return (self.tokens - 1) / (self.last - self.first)


class TestDialog(Dialog[None]):
    """Enter sends; escape closes, which ends the request on the gateway too."""

    __test__ = False
    model = ""
    chat = False
    stream: Stream | None = None
    clock: Callable[[], float] = staticmethod(time.monotonic)
    answer: Answer | None = None
    state = ""
    """`streaming`, `done (why)`, `failed` or `stopped`, once something was sent."""
    max_tokens = MAX_TOKENS
    line = getters.query_one("#prompt", Line)
    text = getters.query_one("#text", Static)
    scroll = getters.query_one("#answer", VerticalScroll)

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "stop", show=False),
        Binding("pagedown", "scroll(1)", show=False),
        Binding("pageup", "scroll(-1)", show=False),
    ]

    def content(self) -> ComposeResult:
        yield Line(id="prompt", placeholder="prompt")
        with VerticalScroll(id="answer", can_focus=False):
            yield Static(id="text", markup=False)

    def fill(self) -> None:
        self.answer, self.state = None, ""
        self.box.border_title = f.middle(f"Test {f.clean(self.model)}", 66)
        self.line.value = PROMPTS[self.chat]
        self.line.cursor_position = len(self.line.value)
        self.line.focus()
        self.text.update(Content())
        self._keys("not sent yet")

    def on_input_submitted(self, event: Line.Submitted) -> None:
        if event.value.strip():
            self.run_worker(self._ask(event.value), exclusive=True, group="test")

    def action_cancel(self) -> None:
        self.action_stop()
        super().action_cancel()

    def action_stop(self) -> None:
        """End the request; what has arrived stays."""
        self.workers.cancel_group(self, "test")

    def action_scroll(self, pages: int) -> None:
        self.scroll.scroll_relative(y=pages * self.scroll.size.height, animate=False)

    async def _ask(self, prompt: str) -> None:
        assert self.stream is not None
        self.answer = answer = Answer(sent=self.clock())
        painter = self.set_interval(PAINT_S, lambda: self._paint(answer, "streaming"))
        try:
            async with aclosing(
                self.stream(self.model, prompt, self.chat, self.max_tokens)
            ) as pieces:
                async for piece in pieces:
                    answer.add(piece, self.clock())
            self._paint(answer, f"done ({f.clean(answer.finish or 'no reason given')})")
        except (Unreachable, Refused) as error:
            self._paint(answer, "failed", f.clean(str(error)))
        except asyncio.CancelledError:
            if self.is_current:
                self._paint(answer, "stopped")
            raise
        finally:
            painter.stop()

    def _paint(self, answer: Answer, state: str, problem: str = "") -> None:
        self.state = state
        lines = answer.text.strip().split("\n")
        shown = Content("\n".join(f.clean(line) for line in lines))
        if problem:
            shown = Content.assemble(shown, "\n" if answer.text else "")
            shown += Content.styled(problem, "$error")
        self.text.update(shown)
        self.scroll.scroll_end(animate=False)
        if answer.first is None and state == "streaming":
            state = f"waiting {f.seconds(self.clock() - answer.sent)}"
        self._keys(
            state,
            f"TTFT {f.seconds(answer.ttft_s)}",
            f"{f.rate(answer.tok_s)} tok/s",
            f.plural(answer.tokens, "token"),
        )

    def _keys(self, *facts: str) -> None:
        enter = self.glyphs.enter
        text = "  ".join(facts)
        keys = [
            (enter, "bar--key"), (" send   ", ""), ("esc", "bar--key"), (" close", ""),
        ]  # fmt: skip
        width = self.hints.size.width  # 0 before the first layout
        needed = f.cells(text) + sum(f.cells(key) for key, _ in keys) + 2
        self.hints.show([(text, "")], keys if not width or needed <= width else [])
