"""Pins go back into models.toml and nothing else in it changes."""

import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron.protocol.config_file import ConfigError
from services.catalogue_file import set_pinned

Edit = Callable[[str, str, bool], str]
FILE = """\
# Our models. Ask Ann before you change this.

[[models]]
id = "big"            # the flagship
max_seq_len = 8192

[[models]]            # for autocompletion
pinned = false
id = "small"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


@pytest.fixture
def edit_pinned(path: Path) -> Edit:
    def edit(text: str, model: str, pinned: bool) -> str:
        path.write_text(text)
        set_pinned(path, model, pinned)
        return path.read_text()

    return edit


def test_comments_order_and_spacing_survive(edit_pinned: Edit) -> None:
    edited = edit_pinned(FILE, "small", True)
    assert edited == FILE.replace("pinned = false", "pinned = true")


def test_the_key_is_added_to_an_entry_without_it(edit_pinned: Edit) -> None:
    edited = edit_pinned(FILE, "big", True)
    models = tomllib.loads(edited)["models"]
    assert models[0] == {"id": "big", "max_seq_len": 8192, "pinned": True}
    assert "# the flagship" in edited
    assert "# Our models. Ask Ann before you change this." in edited
    assert [m["id"] for m in models] == ["big", "small"]


def test_an_entry_with_adapters_keeps_them(edit_pinned: Edit) -> None:
    big, small = FILE.split("\n[[models]]            # for")
    adapter = '\n[[models.loras]]   # more to come\npath = "tone"\n'
    adapters = f"{big}{adapter}\n[[models]]   # for{small}"
    for model in ("big", "small", "org/new"):
        edited = edit_pinned(adapters, model, True)
        models = {entry["id"]: entry for entry in tomllib.loads(edited)["models"]}
        assert models[model]["pinned"]
        assert models["big"]["loras"] == [{"path": "tone"}]
        assert "# more to come" in edited


def test_an_unknown_model_gets_an_entry_at_the_end(edit_pinned: Edit) -> None:
    edited = edit_pinned(FILE, "org/new", True)
    assert edited.startswith(FILE)
    assert tomllib.loads(edited)["models"][2] == {"id": "org/new", "pinned": True}
    assert edit_pinned(edited, "org/new", False).endswith("pinned = false\n")


def test_unpinning_what_has_no_entry_changes_nothing(edit_pinned: Edit) -> None:
    assert edit_pinned(FILE, "org/new", False) == FILE
    assert edit_pinned(FILE, "big", False) == FILE


def test_the_file_is_created_private(tmp_path: Path) -> None:
    path = tmp_path / "config" / "models.toml"
    set_pinned(path, "a", True)
    assert tomllib.loads(path.read_text()) == {"models": [{"id": "a", "pinned": True}]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mode_and_links_survive(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(FILE)
    real.chmod(0o640)
    link = tmp_path / "models.toml"
    link.symlink_to(real)
    set_pinned(link, "small", True)
    assert link.is_symlink()
    assert "pinned = true" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["models.toml", "real.toml"]


@pytest.mark.parametrize("text", ["models = 3\n", "[models]\nid = 'a'\n", "[[models"])
def test_a_file_of_another_shape_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"models\.toml: "):
        set_pinned(path, "a", True)
    assert path.read_text() == text
