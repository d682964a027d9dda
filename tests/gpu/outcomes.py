"""pytest plugin that notes how the checks went, after each of them: a run that hangs is
killed, and pytest itself tells of failures at its end.

`python -m pytest -p tests.gpu.outcomes …` with the file's name in the environment.
"""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.gpu.results import Checks, Notebook

FILE: Final = "GPU_RUN_OUTCOMES"
_SAID: Final = 300
"""Characters of why a check failed."""


class _Outcomes:
    def __init__(self, file: Path, config: pytest.Config) -> None:
        self._notebook = Notebook(file)
        self._config = config

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("tests/gpu/")
        found = Checks(
            passed=int(report.passed and report.when == "call"),
            skipped=int(report.skipped),
            failed={name: _why(report)} if report.failed else {},
        )
        if report.when == "call" and report.user_properties:
            values = {key: float(str(value)) for key, value in report.user_properties}
            found.measured[name] = values
        self._notebook.add(checks=found)
        if report.failed:
            self._config.get_terminal_writer().write(f"\n{report.longreprtext}\n")


def _why(report: pytest.TestReport) -> str:
    """The line that says it: an assertion's message may have more."""
    crash = getattr(report.longrepr, "reprcrash", None)
    said = str(report.longrepr if crash is None else crash.message)
    first, _, _ = said.strip().partition("\n")
    return first[:_SAID]


def pytest_configure(config: pytest.Config) -> None:
    """Take part where somebody wants the outcomes."""
    file = os.environ.get(FILE)
    if file is not None:
        config.pluginmanager.register(_Outcomes(Path(file), config), "gpu-outcomes")
