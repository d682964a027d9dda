"""`[responses]` of cortex.toml."""

from pathlib import Path

import pytest

from neuron.protocol.config_file import ConfigError
from services.config import CortexConfig, ResponsesSection, load_settings, needs_restart


def test_nothing_is_stored_unless_it_is_asked_for() -> None:
    assert CortexConfig().responses.store is False


def test_a_change_needs_a_restart() -> None:
    new = CortexConfig(responses=ResponsesSection(store=True))
    assert needs_restart(CortexConfig(), new) == ["responses"]


@pytest.mark.parametrize("line", ["max_age_h = 0", "max_mb = 0", "keep = true"])
def test_what_is_wrong_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "cortex.toml"
    path.write_text(f"[responses]\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf":2: responses\.{line.split()[0]}"):
        load_settings(path)
