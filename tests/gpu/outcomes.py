"""pytest plugin that notes how the checks went, after each of them.

`python -m pytest -p tests.gpu.outcomes …` with the file's name in the environment.
"""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.gpu.results import Checks, Notebook

FILE: Final = "GPU_RUN_OUTCOMES"


class _Outcomes:
    def __init__(self, file: Path) -> None:
        self._notebook = Notebook(file)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("tests/gpu/")
        found = Checks(
            passed=int(report.passed and report.when == "call"),
            skipped=int(report.skipped),
            failed=[name] if report.failed else [],
        )
        if report.when == "call" and report.user_properties:
            values = {key: float(str(value)) for key, value in report.user_properties}
            found.measured[name] = values
        self._notebook.add(checks=found)


def pytest_configure(config: pytest.Config) -> None:
    """Take part where somebody wants the outcomes."""
    file = os.environ.get(FILE)
    if file is not None:
        config.pluginmanager.register(_Outcomes(Path(file)), "gpu-outcomes")
