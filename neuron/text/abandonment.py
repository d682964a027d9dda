"""Telling work in a thread that nobody waits for it any more."""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final


class AbandonedError(BaseException):
    """Nobody waits for the result; like a cancellation, it is no one's to handle."""


_abandoned: Final[ContextVar[threading.Event | None]] = ContextVar(
    "abandoned", default=None
)


@contextlib.contextmanager
def abandoned_by(event: threading.Event) -> Iterator[None]:
    """What is done in here, and in tasks and threads begun here, ends with `event`."""
    token = _abandoned.set(event)
    try:
        yield
    finally:
        _abandoned.reset(token)


def stop_if_abandoned() -> None:
    """Called by long work now and then.

    Raises:
        AbandonedError: it is of no use any more.
    """
    event = _abandoned.get()
    if event is not None and event.is_set():
        raise AbandonedError
