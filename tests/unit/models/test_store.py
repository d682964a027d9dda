"""Which folders are models, under which ids, and when they are read again."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from neuron.models.store import ModelStore
from tests.unit.exl2.support import tiny_model


def ids(*roots: Path) -> list[str]:
    return [entry.id for entry in ModelStore(roots).entries()]


def test_models_lie_one_or_two_levels_below_a_root(tmp_path: Path) -> None:
    tiny_model(tmp_path / "plain")
    tiny_model(tmp_path / "org" / "inner")
    tiny_model(tmp_path / "org" / "Another")
    tiny_model(tmp_path / "org" / "deep" / "too-deep")
    tiny_model(tmp_path / "plain" / "inside-a-model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    assert ids(tmp_path) == ["org/Another", "org/inner", "plain"]
    entry = ModelStore([tmp_path]).get("org/inner")
    assert entry.path == tmp_path / "org" / "inner"
    assert entry.info is not None
    assert entry.info.id == "org/inner"
    assert entry.problem is None


def test_a_root_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert ids(tmp_path / "absent") == []


def test_an_unknown_id_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="absent"):
        ModelStore([tmp_path]).get("absent")


def test_a_broken_model_is_listed_with_its_problem(tmp_path: Path) -> None:
    tiny_model(tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").unlink()
    tiny_model(tmp_path / "good")
    broken, good = ModelStore([tmp_path]).entries()
    assert broken.info is None
    assert broken.problem is not None
    assert broken.problem.endswith("tokenizer.json: is missing")
    assert good.problem is None


def test_a_model_in_pickles_is_listed_with_that_problem(tmp_path: Path) -> None:
    tiny_model(tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").rename(tmp_path / "old" / "model.bin")
    (entry,) = ModelStore([tmp_path]).entries()
    assert entry.problem is not None
    assert "pickle" in entry.problem


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_configuration_or_weights_is_no_model(
    tmp_path: Path, missing: str
) -> None:
    tiny_model(tmp_path / "part")
    (tmp_path / "part" / missing).unlink()
    assert ids(tmp_path) == []


def test_folders_in_the_making_are_hidden(tmp_path: Path) -> None:
    tiny_model(tmp_path / ".model.partial-1")
    tiny_model(tmp_path / "org" / ".hidden")
    assert ids(tmp_path) == []


def test_the_first_root_wins(tmp_path: Path) -> None:
    for root in ("a", "b"):
        tiny_model(tmp_path / root / "model")
    tiny_model(tmp_path / "b" / "other")
    entries = ModelStore([tmp_path / "b", tmp_path / "a"]).entries()
    assert [(entry.id, entry.path.parent.name) for entry in entries] == [
        ("model", "b"),
        ("other", "b"),
    ]


def test_links_to_models_are_followed(tmp_path: Path) -> None:
    tiny_model(tmp_path / "elsewhere" / "model")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere" / "model")
    (root / "org").symlink_to(tmp_path / "elsewhere")
    assert ids(root) == ["linked", "org/model"]


def test_links_that_lead_back_or_nowhere_are_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tiny_model(root / "model")
    (root / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "itself").symlink_to(root / "itself")
    (root / "dangling").symlink_to(tmp_path / "absent")
    (root / "org").mkdir()
    (root / "org" / "back").symlink_to(root)
    assert ids(root) == ["model"]


def test_a_dangling_weight_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "absent")
    (entry,) = ModelStore([tmp_path]).entries()
    assert entry.problem is not None
    assert "cannot be read" in entry.problem


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        (b"caf\xe9", "caf\ufffd"),
        (b"a\nb", "a\ufffdb"),
        (b" two words ", "two words"),
        (b" ", "\ufffd"),
        ("modèle-模型".encode(), "modèle-模型"),
    ],
)
def test_a_name_that_no_header_can_carry_can_still_be_sent(
    tmp_path: Path, name: bytes, sent: str
) -> None:
    tiny_model(tmp_path / os.fsdecode(name))
    (entry,) = ModelStore([tmp_path]).entries()
    assert entry.id == sent
    assert entry.info is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model(tmp_path / "model")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    store = ModelStore([tmp_path])
    with caplog.at_level(logging.WARNING):
        assert [entry.id for entry in store.entries()] == ["model"]
        store.entries()
    assert len(caplog.records) == 1
    assert str(locked) in caplog.text


def test_a_root_that_is_no_folder_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = ModelStore([tmp_path / "file"])
    with caplog.at_level(logging.WARNING):
        assert store.entries() == []
        assert store.entries() == []
    assert len(caplog.records) == 1
    assert str(tmp_path / "file") in caplog.text


def later(files: Sequence[Path]) -> None:
    for file in files:
        stamp = file.stat().st_mtime_ns + 1_000_000_000
        os.utime(file, ns=(stamp, stamp))


def test_a_folder_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    store = ModelStore([tmp_path])
    first = store.get("model")
    assert store.get("model") is first
    config = tmp_path / "model" / "config.json"
    later([config])
    second = store.get("model")
    assert second is not first
    assert second == first
    config.write_text("{")
    assert store.get("model").problem is not None
    (tmp_path / "model" / "tokenizer.json").unlink()
    config.unlink()
    assert store.entries() == []


def test_a_model_that_appears_is_found(tmp_path: Path) -> None:
    store = ModelStore([tmp_path])
    assert store.entries() == []
    tiny_model(tmp_path / "model")
    assert [entry.id for entry in store.entries()] == ["model"]


def test_an_earlier_roots_model_takes_over_when_it_appears(tmp_path: Path) -> None:
    tiny_model(tmp_path / "b" / "model")
    store = ModelStore([tmp_path / "a", tmp_path / "b"])
    assert store.get("model").path.parent.name == "b"
    tiny_model(tmp_path / "a" / "model")
    assert store.get("model").path.parent.name == "a"
