"""What would make two screens of the same fleet differ is fixed here."""

import time
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _one_time_zone_and_colour(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
