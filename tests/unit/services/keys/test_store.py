"""What was spent is there after a restart, or is said not to be."""

import sqlite3
from pathlib import Path

import pytest

from services.keys.ledger import Entry, Spent
from services.keys.store import SpendStore, StoreError, read_spend
from services.keys.window import MAX_HOURS

HOUR = 500_000


def spent(tokens: int, last_used: float = 5.0) -> Spent:
    return Spent(1, tokens, 2, 3, 0.25, last_used)


def test_entries_add_up_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "spend.sqlite"
    for last_used in (7.0, 6.0):
        store = SpendStore(path)
        store.add([Entry("alice", HOUR, spent(10, last_used))])
        store.add([Entry("alice", HOUR + 1, spent(5)), Entry("bobb", HOUR, spent(1))])
        store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    expected = {
        ("alice", HOUR): Spent(2, 20, 4, 6, 0.5, 7.0),
        ("alice", HOUR + 1): Spent(2, 10, 4, 6, 0.5, 5.0),
        ("bobb", HOUR): Spent(2, 2, 4, 6, 0.5, 5.0),
    }
    assert {(e.key, e.hour): e.spent for e in read_spend(path)} == expected
    store = SpendStore(path)
    assert {(e.key, e.hour): e.spent for e in store.load(HOUR + 9)} == expected
    store.close()


def test_what_is_older_than_a_year_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    store = SpendStore(path)
    store.add([Entry("alice", HOUR, spent(1)), Entry("alice", HOUR + 1, spent(2))])
    assert [e.hour for e in store.load(HOUR + 1 + MAX_HOURS)] == [HOUR + 1]
    store.close()
    assert len(read_spend(path)) == 1


def test_all_or_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    store = SpendStore(path)
    broken = Entry("alice", HOUR, Spent(requests=None))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"spend\.sqlite: NOT NULL"):
        store.add([Entry("bobb", HOUR, spent(1)), broken])
    store.close()
    assert read_spend(path) == []


def test_reading_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    assert read_spend(path) == []
    assert not path.exists()


def test_reading_beside_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    store = SpendStore(path)
    store.add([Entry("alice", HOUR, spent(1))])
    assert len(read_spend(path)) == 1
    store.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    path.write_text(
        "this is no database at all, and long enough to be sure of that\n" * 9
    )
    before = path.read_bytes()
    for open_ in (SpendStore, read_spend):
        with pytest.raises(StoreError, match="not a database"):
            open_(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreError, match="state"):
        SpendStore(tmp_path / "state" / "spend.sqlite")


def test_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer version"):
        SpendStore(path)
