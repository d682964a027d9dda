"""Where the readers of all formats write the calls that they find."""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from neuron.text.events import (
    OutputEvent,
    ToolArgumentsDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from neuron.text.reader import Reader, Waiting
from neuron.text.tools.spec import ToolSpec

WORD: Final = re.compile(r"[\w.-]+")
"""Of a tool, where nothing but what follows ends it."""


class NotACallError(Exception):
    """What was read is no call of this format, however it began."""


class CallSink:
    """Turns what a format reads into events.

    With `whole`, the events of a call are kept back until it is complete, so that a
    broken one can still come out as text; otherwise they leave at once. What was read
    is given up (see `Reader.mark`) as soon as its events have left.
    """

    def __init__(
        self,
        reader: Reader,
        tools: Mapping[str, ToolSpec],
        emit: Callable[[OutputEvent], None],
        *,
        whole: bool,
    ) -> None:
        self.tools = tools
        self.sure = False
        """Whether a failure now means a broken call, and not merely other text."""
        self._reader = reader
        self._emit = emit
        self._whole = whole
        self._held: list[OutputEvent] = []
        self._index = 0
        self._open = False

    def start(self, name: str) -> None:
        """A call of `name`, declared or not: the caller judges, as with vLLM.

        Raises:
            NotACallError: it has no name.
        """
        if not name:
            raise NotACallError
        self._open = True
        self._pass(ToolCallStarted(self._index, _random_id(), name))

    def arguments(self, text: str) -> None:
        """More of the arguments' JSON."""
        self._pass(ToolArgumentsDelta(self._index, text))

    def end(self) -> None:
        """The call that was started is complete."""
        held, self._held = self._held, []
        for event in held:
            self._emit(event)
        self._end(complete=True)
        self._reader.mark()

    def abandon(self) -> bool:
        """The format gave up: end what cannot be taken back, forget what can.

        Returns:
            Whether a call had been started.
        """
        was_open = self._open
        self._held.clear()
        if was_open and not self._whole:
            self._end(complete=False)
        self._open = False
        return was_open

    def _end(self, *, complete: bool) -> None:
        self._emit(ToolCallEnded(self._index, complete))
        self._index += 1
        self._open = False

    def _pass(self, event: OutputEvent) -> None:
        if self._whole:
            self._held.append(event)
        else:
            self._emit(event)
            self._reader.mark()


def _random_id() -> str:
    """As OpenAI's look."""
    return "call_" + secrets.token_hex(12)


def expect(reader: Reader, literal: str) -> Waiting[None]:
    """Read whitespace and `literal`.

    Raises:
        NotACallError: something else comes.
    """
    if not (yield from reader.skip(literal)):
        raise NotACallError


def read_name(reader: Reader) -> Waiting[str]:
    """Read whitespace and a name.

    Raises:
        NotACallError: there is none.
    """
    yield from reader.skip_space()
    name = ""
    while WORD.match((yield from reader.peek())):
        name += reader.run(WORD)
    if not name:
        raise NotACallError
    return name
