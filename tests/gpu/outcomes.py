"""pytest plugin that notes how the checks went, after each of them.

`python -m pytest -p tests.gpu.outcomes …` with the file's name in the environment.
"""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.gpu.results import Notebook, Tests

FILE: Final = "GPU_RUN_OUTCOMES"


class _Outcomes:
    def __init__(self, file: Path) -> None:
        self._notebook = Notebook(file)
        self._tests = Tests()

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("tests/gpu/")
        if report.failed:
            if name not in self._tests.failed:
                self._tests.failed.append(name)
        elif report.skipped:
            self._tests.skipped += 1
        elif report.when == "call":
            self._tests.passed += 1
        if report.when == "call" and report.user_properties:
            found = {name: float(str(value)) for name, value in report.user_properties}
            self._tests.measured[name] = found
        self._notebook.add(tests=self._tests)


def pytest_configure(config: pytest.Config) -> None:
    """Take part where somebody wants the outcomes."""
    file = os.environ.get(FILE)
    if file is not None:
        config.pluginmanager.register(_Outcomes(Path(file)), "gpu-outcomes")
