"""Edits of keys.toml: what is there stays, and what is written can be read."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neuron.protocol.config_file import ConfigError
from services.keys import edit, secret
from services.keys.edit import KeyNameError
from services.keys.file import KeySection, read_keys
from services.keys.ring import KeyRing, Problem

BY_HAND = f"""\
# The team's keys.

[[keys]]   # Bob left in May
id = "bob12345"
name = "bob"     # Robert
hash = "{secret.hashed("x")}"
revoked = true
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_first_key_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config" / "keys.toml"
    made, shown = edit.add(path, name="alice", scope="admin", budget_tokens=None)
    assert mode(path) == 0o600
    assert shown not in path.read_text()
    assert "budget_tokens" not in path.read_text()
    keys = read_keys(path)
    assert keys.entries == (made,)
    assert KeyRing(keys.entries).find([shown], 0) == made


def test_every_field_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made, _ = edit.add(
        path,
        name='Alice "A" Ångström',
        scope="read-only",
        models=["qwen*", "a\\b"],
        requests_per_minute=6,
        tokens_per_minute=7,
        budget_tokens=8,
        budget_cost=1.5,
        window="2w",
        priority=-3,
        created_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
    )
    assert read_keys(path).entries == (made,)
    assert made.name == 'Alice "A" Ångström'
    assert (made.models, made.window_hours) == (("qwen*", "a\\b"), 336)


def test_comments_and_other_entries_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(BY_HAND)
    edit.add(path, name="bob")
    assert path.read_text().startswith(BY_HAND)
    edit.revoke(path, "bob")
    assert path.read_text().startswith(BY_HAND)
    assert [key.revoked for key in read_keys(path).entries] == [True, True]


def test_an_edit_closes_the_file_to_others(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(BY_HAND)
    path.chmod(0o644)
    edit.add(path, name="alice")
    assert mode(path) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, real = tmp_path / "keys.toml", tmp_path / "real.toml"
    real.write_text(BY_HAND)
    path.symlink_to(real)
    edit.add(path, name="alice")
    assert path.is_symlink()
    assert len(read_keys(real).entries) == 2


def test_revoking(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made, shown = edit.add(path, name="alice")
    edit.rotate(path, "alice", datetime.now(UTC) + timedelta(days=1))
    assert edit.revoke(path, f"ck-{made.id}").name == "alice"
    ring = KeyRing(read_keys(path).entries)
    assert not isinstance(ring.find([shown], 0), KeySection)
    with pytest.raises(KeyNameError, match="'alice' is revoked"):
        edit.revoke(path, "alice")
    with pytest.raises(KeyNameError, match="'alice' is revoked"):
        edit.rotate(path, "alice", None)
    again, _ = edit.add(path, name="alice")
    assert edit.revoke(path, "alice").id == again.id


def test_rotating_keeps_all_but_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made, first = edit.add(path, name="alice", priority=4)
    until = datetime(2026, 11, 25, tzinfo=UTC)
    _, second = edit.rotate(path, "alice", until)
    (now,) = read_keys(path).entries
    assert (now.id, now.priority) == (made.id, 4)
    ring = KeyRing([now])
    assert ring.find([second], until.timestamp() + 9) == now
    assert ring.find([first], until.timestamp() - 1) == now
    assert ring.find([first], until.timestamp()) is Problem.REPLACED
    _, third = edit.rotate(path, "alice", None)
    ring = KeyRing(read_keys(path).entries)
    assert ring.find([second], 0) is Problem.UNKNOWN
    assert isinstance(ring.find([third], 0), KeySection)


def test_what_cannot_be_done_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    edit.add(path, name="alice")
    before = path.read_text()
    with pytest.raises(KeyNameError, match="a key 'alice' already"):
        edit.add(path, name="alice")
    with pytest.raises(KeyNameError, match="no key 'bob'; there is: alice"):
        edit.revoke(path, "bob")
    with pytest.raises(ConfigError, match="window: should be"):
        edit.add(path, name="bob", window="1y")
    with pytest.raises(ConfigError, match="name: should be printable"):
        edit.add(path, name="bo\tb")
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["keys = [\n", "keys = []\n", "[[keys]]\nid = 1\n"])
def test_a_file_that_it_cannot_edit_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="keys"):
        edit.add(path, name="alice")
    assert path.read_text() == text


def test_no_key_is_lost_between_editors(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    threads = [
        threading.Thread(target=edit.add, args=(path,), kwargs={"name": f"n{number}"})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path).entries} == {f"n{n}" for n in range(8)}
