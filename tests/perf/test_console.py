"""How soon the console is there.

`pytest -n 0 -s -m perf tests/perf/test_console.py`
"""

import statistics
import time
from collections.abc import Callable

import pytest

from tests.integration.console.terminals import cortex, environ, terminal
from tests.support.processes import Home, announced_process

ROUNDS = 5


def median_ms(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS)) * 1000


@pytest.mark.perf
def test_first_frame(home: Home) -> None:
    """From the start of the process to a drawn screen, before any network answer."""

    def measure() -> float:
        began = time.perf_counter()
        with terminal(home, "--attach", "127.0.0.1:1") as console:
            console.wait_for("Nodes", "Models", "Events")
            return time.perf_counter() - began

    print(f"\nfirst frame: {median_ms(measure):.0f} ms (aim: 500)")  # noqa: T201


@pytest.mark.perf
def test_status(home: Home) -> None:
    """A whole `cortex-tui status`, interpreter and all."""
    command = ["cortex_tui", "--serve"]
    with announced_process(command, home, "served", environ(home)):

        def measure() -> float:
            began = time.perf_counter()
            assert cortex(home, "status").returncode == 0
            return time.perf_counter() - began

        print(f"\nstatus: {median_ms(measure):.0f} ms (aim: 250)")  # noqa: T201
