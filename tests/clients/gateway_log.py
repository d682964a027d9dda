"""What the gateway logged of the requests of one test."""

import re
import time
from dataclasses import dataclass, field
from typing import Self

from tests.support.processes import Process

_FIELD = re.compile(r"([a-z_]+)=(\S+)")
_ENDED = " cortex.requests: request "
DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one request."""

    route: str
    status: int
    outcome: str
    prompt: int | None
    completion: int | None

    @classmethod
    def of(cls, line: str) -> Self:
        fields = dict(_FIELD.findall(line))
        return cls(
            fields["route"],
            int(fields["status"]),
            fields["outcome"],
            _number(fields["prompt"]),
            _number(fields["completion"]),
        )


@dataclass(slots=True)
class GatewayLog:
    """Requests that ended since this was made; those of one process at a time."""

    gateway: Process
    _begin: int = field(init=False)

    def __post_init__(self) -> None:
        self._begin = len(self.gateway.log_text())

    def ended(self, count: int) -> list[Ended]:
        """That many, as soon as they have ended; more are an error."""
        deadline = time.monotonic() + DEADLINE_S
        while len(found := self._found()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(found) == count, found
        return found

    def _found(self) -> list[Ended]:
        lines = self.gateway.log_text()[self._begin :].splitlines(keepends=True)
        return [Ended.of(line) for line in lines if _ENDED in line and "\n" in line]


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)
