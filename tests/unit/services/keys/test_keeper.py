"""Keys as a gateway holds them: read as the file changes, their spending kept."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.keys import edit, keeper as keepers
from services.keys.file import Keys, KeySection, read_keys
from services.keys.keeper import KeyKeeper
from services.keys.ledger import Spent
from services.keys.ring import Problem
from services.keys.store import read_spend

pytestmark = pytest.mark.allow_blocking  # The tests edit the file themselves.


class Keeper(KeyKeeper):
    """One that remembers what it told."""

    def __init__(self, keys: Keys) -> None:
        self.told: list[str] = []
        super().__init__(keys, lambda level, text: self.told.append(f"{level}: {text}"))

    def opens(self, shown: str) -> bool:
        return isinstance(self.ring.find([shown], time.time()), KeySection)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "LOOK_S", 0.02)
    monkeypatch.setattr(keepers, "SAVE_S", 0.02)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Keeper]:
    keeper = Keeper(read_keys(folder / "keys.toml"))
    async with asyncio.timeout(20), keeper.running(folder / "spend.sqlite"):
        yield keeper


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_key_is_good_as_soon_as_it_is_in_the_file(tmp_path: Path) -> None:
    async with running(tmp_path) as keeper:
        assert not keeper.required(None)
        _, shown = edit.add(tmp_path / "keys.toml", name="alice")
        await until(lambda: keeper.opens(shown))
        assert keeper.required(None)
        edit.revoke(tmp_path / "keys.toml", "alice")
        await until(lambda: not keeper.opens(shown))
        assert keeper.ring.find([shown], 0) is Problem.REVOKED
        assert keeper.required(None), "revoking the last one closes no door"
    assert [text.rpartition(": ")[2] for text in keeper.told] == ["1", "0"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[keys]]\nid = 'nobody'\n", "keys.toml:1: keys.0.name: "),
        ("keys = [", "not taken, the old keys stay in force"),
    ],
)
async def test_a_broken_file_leaves_the_old_keys_in_force(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "keys.toml"
    _, shown = edit.add(file, name="alice")
    good = file.read_text()
    async with running(tmp_path) as keeper:
        file.write_text(text)
        await until(lambda: bool(keeper.told))
        await asyncio.sleep(0.1)
        assert len(keeper.told) == 1, "it is said once"
        assert says in keeper.told[0]
        assert keeper.opens(shown)
        file.write_text(good + "# mended\n")
        edit.revoke(file, "alice")
        await until(lambda: not keeper.opens(shown))


async def test_a_file_that_goes_takes_no_key_along(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    _, shown = edit.add(file, name="alice")
    async with running(tmp_path) as keeper:
        file.unlink()
        await until(lambda: bool(keeper.told))
        assert keeper.told[0] == f"error: {file} is gone; its keys stay in force"
        assert keeper.opens(shown)
        assert keeper.required(None)


async def test_a_folder_or_a_closed_one_in_its_place_opens_no_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.toml"
    _, shown = edit.add(file, name="alice")
    async with running(tmp_path) as keeper:
        file.unlink()
        file.mkdir()
        await until(lambda: bool(keeper.told))
        assert "is gone; its keys stay in force" in keeper.told[0]

        def denied(_: Path) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "is_file", denied)
        (file / "touched").touch()
        await until(lambda: len(keeper.told) > 1)
        assert keeper.told[1] == (
            f"error: not taken, the old keys stay in force: {file}: Permission denied"
        )
        assert keeper.opens(shown)
        assert keeper.required(None)


async def test_keys_that_were_read_with_other_files_do_not_undo_newer_ones(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.toml"
    _, shown = edit.add(file, name="alice")
    async with running(tmp_path) as keeper:
        read_before = read_keys(file)
        edit.revoke(file, "alice")
        await until(lambda: not keeper.opens(shown))
        await keeper.follow(read_before)
        assert not keeper.opens(shown)
        elsewhere = tmp_path / "elsewhere" / "keys.toml"
        _, other = edit.add(elsewhere, name="bob")
        await keeper.follow(read_keys(elsewhere))
        assert keeper.opens(other)
        edit.revoke(elsewhere, "bob")
        await until(lambda: not keeper.opens(other))


async def test_of_two_looks_at_once_neither_is_over_before_the_change_is_in_force(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.toml"
    _, shown = edit.add(file, name="alice")
    keeper = Keeper(read_keys(file))
    edit.revoke(file, "alice")

    async def look() -> bool:
        await keeper.look()
        return keeper.opens(shown)

    assert not any(await asyncio.gather(look(), look()))


async def test_an_emptied_file_opens_no_door(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    _, shown = edit.add(file, name="alice")
    async with running(tmp_path) as keeper:
        file.write_text("")
        await until(lambda: not keeper.opens(shown))
        assert keeper.required(None)
        assert not keeper.required("none")


async def test_an_open_file_is_warned_of_at_the_start_and_when_it_opens(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.toml"
    edit.add(file, name="alice")
    async with running(tmp_path) as keeper:
        file.chmod(0o644)
        await until(lambda: bool(keeper.told))
    assert keeper.told == [
        f"warning: {file} is open to every user of this host: chmod o-rwx {file}"
    ]
    assert Keeper(read_keys(file)).told == keeper.told


def test_who_is_asked_for_a_key(tmp_path: Path) -> None:
    keeper = Keeper(Keys())
    asked = [keeper.required(auth) for auth in (None, "keys", "none")]
    assert asked == [False, True, False]


# Spending.


def spent(tokens: int) -> Spent:
    return Spent(1, tokens, last_used=time.time())


async def test_what_was_spent_is_there_after_a_restart(tmp_path: Path) -> None:
    key, _ = edit.add(tmp_path / "keys.toml", name="alice", budget_tokens=10)
    async with running(tmp_path) as keeper:
        keeper.limits.end(key, spent(4))
        await until(lambda: bool(read_spend(tmp_path / "spend.sqlite")))
        keeper.limits.end(key, spent(5))
    async with running(tmp_path) as keeper:
        assert keeper.limits.spent(key, time.time()).tokens == 9
        assert keeper.limits.ledger.last_used(key.id) is not None
        keeper.limits.end(key, spent(1))
    async with running(tmp_path) as keeper:
        assert keeper.limits.spent(key, time.time()).tokens == 10


async def test_what_cannot_be_saved_is_kept_until_it_can(tmp_path: Path) -> None:
    key, _ = edit.add(tmp_path / "keys.toml", name="alice")
    database = tmp_path / "spend.sqlite"
    async with running(tmp_path) as keeper:
        blocker = sqlite3.connect(database)
        blocker.execute("ALTER TABLE spent RENAME TO elsewhere")
        blocker.commit()
        keeper.limits.end(key, spent(4))
        await until(lambda: bool(keeper.told))
        keeper.limits.end(key, spent(5))
        await asyncio.sleep(0.1)
        assert len(keeper.told) == 1
        assert "is not kept for now" in keeper.told[0]
        blocker.execute("ALTER TABLE elsewhere RENAME TO spent")
        blocker.commit()
        blocker.close()
        await until(lambda: len(keeper.told) > 1)
        assert keeper.told[1:] == ["info: what keys spend is kept again"]
        assert sum(e.spent.tokens for e in read_spend(database)) == 9


async def test_what_was_spent_is_known_as_soon_as_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.database.BUSY_S", 0.01)
    key, _ = edit.add(tmp_path / "keys.toml", name="alice")
    database = tmp_path / "spend.sqlite"
    async with running(tmp_path) as keeper:
        keeper.limits.end(key, spent(4))
    blocker = sqlite3.connect(database)
    blocker.execute("BEGIN IMMEDIATE")
    async with running(tmp_path) as keeper:
        assert "database is locked" in keeper.told[0]
        keeper.limits.end(key, spent(5))
        assert keeper.limits.spent(key, time.time()).tokens == 5
        blocker.rollback()
        blocker.close()
        await until(lambda: keeper.limits.spent(key, time.time()).tokens == 9)
        await until(lambda: len(keeper.told) > 1)
        assert keeper.told[1:] == ["info: what keys spend is kept again"]
        assert sum(e.spent.tokens for e in read_spend(database)) == 9


async def test_without_a_place_to_keep_it_keys_work_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "spend.sqlite").write_text("no database, and long enough " * 9)
    key, shown = edit.add(tmp_path / "keys.toml", name="alice")
    async with running(tmp_path) as keeper:
        assert "is not kept for now" in keeper.told[0]
        keeper.limits.end(key, spent(4))
        assert keeper.opens(shown)
        assert keeper.limits.spent(key, time.time()).tokens == 4
