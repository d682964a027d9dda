"""The worker's end of the pipes to the daemon."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

from pydantic import BaseModel, ValidationError

from neuron.ipc import Command, Progress

log = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S: Final = 0.1


class Reporter:
    """Writes reports, from any thread, and never waits for the daemon to read them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._stage = ""
        self._progress_at = 0.0

    def send(self, report: BaseModel) -> None:
        """One line; below PIPE_BUF, so it goes whole or not at all."""
        try:
            os.write(self._descriptor, report.model_dump_json().encode() + b"\n")
        except BlockingIOError:
            log.warning("the daemon does not read; a report is dropped")
        except BrokenPipeError:
            log.warning("the daemon is gone; a report is dropped")

    def progress(self, stage: str, done: int, total: int) -> None:
        """Load progress; only the last one of many in a short time is sent."""
        now = time.monotonic()
        first_or_last = stage != self._stage or done >= total
        if first_or_last or now - self._progress_at >= _PROGRESS_INTERVAL_S:
            self._stage, self._progress_at = stage, now
            self.send(Progress(stage=stage, done=done, total=total))


def follow(source: TextIO, obey: Callable[[Command], None]) -> None:
    """Read commands in a thread of its own, which outlives a stuck loop.

    The end of `source` means that the daemon is gone, however it went: this process
    then exits at once.
    """

    def read() -> None:
        for line in source:
            try:
                command = Command.model_validate_json(line)
            except ValidationError as error:
                log.error("the daemon sent %r: %s", line[:200], error)
                continue
            obey(command)
        log.warning("the daemon is gone; exiting")
        sys.stderr.flush()
        os._exit(0)

    threading.Thread(target=read, name="commands", daemon=True).start()
