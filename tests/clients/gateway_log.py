"""What a gateway logged of the requests of one test."""

import json
import re
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Self

from tests.support.processes import Process

_FIELD = re.compile(r"([a-z_]+)=(\S+)")
_ENDED = re.compile(" cortex.requests: request ")
_REFUSED = re.compile(r"(?: refused: | cortex.requests: .* status=)(4\d\d) ")
"""By the gateway, or by the neuron."""
DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one request."""

    route: str
    status: int
    outcome: str
    streamed: bool
    prompt: int | None
    completion: int | None

    @classmethod
    def of(cls, line: str) -> Self:
        fields = dict(_FIELD.findall(line))
        return cls(
            fields["route"],
            int(fields["status"]),
            fields["outcome"],
            fields["ttft"] != "-",
            _number(fields["prompt"]),
            _number(fields["completion"]),
        )


@dataclass(slots=True)
class GatewayLog:
    """What it logged since this was made, of one test at a time."""

    gateway: Process
    _begin: int = field(init=False)

    def __post_init__(self) -> None:
        # A request of the test before may have been answered, and not have ended yet.
        deadline = time.monotonic() + DEADLINE_S
        while running := _in_flight(self.gateway):
            assert time.monotonic() < deadline, running
            time.sleep(0.02)
        self._begin = len(self.gateway.log_text())

    def ended(self, count: int) -> list[Ended]:
        """That many requests, as soon as they have ended; more are an error."""
        found = self._wait(_ENDED, count)
        return [Ended.of(line) for line in found]

    def refused(self) -> int:
        """The status of the one request that was refused, by whomever."""
        (line,) = self._wait(_REFUSED, 1)
        (status,) = _REFUSED.findall(line)
        return int(status)

    def _wait(self, pattern: re.Pattern[str], count: int) -> list[str]:
        deadline = time.monotonic() + DEADLINE_S
        while len(found := self._lines(pattern)) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        assert len(found) == count, found
        return found

    def _lines(self, pattern: re.Pattern[str]) -> list[str]:
        lines = self.gateway.log_text()[self._begin :].splitlines(keepends=True)
        return [line for line in lines if pattern.search(line) and line.endswith("\n")]


def _in_flight(gateway: Process) -> set[str]:
    """Ids of the requests that have not ended."""
    with urllib.request.urlopen(f"{gateway.url}/admin/v1/fleet") as response:
        return {request["id"] for request in json.load(response)["requests"]}


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)
