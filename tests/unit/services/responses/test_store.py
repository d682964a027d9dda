"""Stored responses: whose they are, how long they stay, and how much room they take."""

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron.protocol.errors import ApiError
from services.config import ResponsesSection
from services.responses import table
from services.responses.store import ResponsesStore
from services.responses.table import ResponsesTable, Stored

HOUR = 3600.0
MB = 1024 * 1024
HI = {"id": "msg_0", "role": "user", "content": "Hi"}


def response(id_: str, text: str = "Yes") -> dict[str, Any]:
    item = {"id": f"msg_{id_}", "type": "message", "text": text}
    return {"id": id_, "output": [item]}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[ResponsesTable]:
    opened = ResponsesTable(tmp_path / "r.sqlite", max_age_s=HOUR, max_bytes=1000)
    yield opened
    opened.close()


def test_what_is_put_is_got(kept: ResponsesTable) -> None:
    stored = Stored(response("a"), [HI])
    kept.put("me", stored, 0)
    assert kept.get("me", "a", 1) == stored
    assert stored.conversation == [HI, *stored.response["output"]]
    assert kept.outputs("me", ["msg_a", "msg_0"], 1) == {
        "msg_a": stored.response["output"][0]
    }


def test_it_is_there_for_its_owner_alone(kept: ResponsesTable) -> None:
    kept.put("me", Stored(response("a"), [HI]), 0)
    assert kept.get("", "a", 1) is None
    assert kept.outputs("you", ["msg_a"], 1) == {}
    assert not kept.delete("you", "a", 1)
    assert kept.delete("me", "a", 1)
    assert kept.get("me", "a", 1) is None
    assert kept.outputs("me", ["msg_a"], 1) == {}


def test_it_is_gone_when_it_is_old(kept: ResponsesTable, tmp_path: Path) -> None:
    kept.put("me", Stored(response("a"), [HI]), 0)
    assert kept.get("me", "a", HOUR - 1) is not None
    assert kept.get("me", "a", HOUR) is None
    assert kept.outputs("me", ["msg_a"], HOUR) == {}
    assert not kept.delete("me", "a", HOUR)
    kept.forget(HOUR)
    assert rows(tmp_path / "r.sqlite") == []


def test_the_oldest_make_room(kept: ResponsesTable, tmp_path: Path) -> None:
    for number in range(20):
        kept.put("me", Stored(response(f"r{number:02}"), [HI]), number)
    ids = rows(tmp_path / "r.sqlite")
    assert ids == [f"r{number:02}" for number in range(20 - len(ids), 20)]
    assert 1 < len(ids) < 20


def test_what_is_larger_than_all_room_is_not_kept(kept: ResponsesTable) -> None:
    noise = "".join(chr(33 + (i * i * 7919) % 9000) for i in range(4000))
    kept.put("me", Stored(response("a", noise), [HI]), 0)
    assert kept.get("me", "a", 1) is None


def rows(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT id FROM responses ORDER BY id").fetchall()
    connection.close()
    return [id_ for (id_,) in found]


def test_the_file_is_the_users_own(kept: ResponsesTable, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "r.sqlite").stat().st_mode) == 0o600


def section(**fields: Any) -> ResponsesSection:
    return ResponsesSection(store=True, **fields)


async def test_it_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "r.sqlite"
    async with ResponsesStore(path, section()) as store:
        await store.put("me", response("a"), [HI])
    async with ResponsesStore(path, section()) as store:
        found = await store.get("me", "a")
        assert found == Stored(response("a"), [HI])
        assert await store.outputs("me", []) == {}
        assert await store.outputs("me", ["msg_a"]) == {
            "msg_a": found.response["output"][0]
        }
        assert await store.delete("me", "a")
        assert not await store.delete("me", "a")


async def test_old_ones_are_gone_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"

    def put_long_ago() -> None:
        old = ResponsesTable(path, max_age_s=HOUR, max_bytes=MB)
        old.put("me", Stored(response("a"), [HI]), 1.0)
        old.close()

    await asyncio.to_thread(put_long_ago)
    async with ResponsesStore(path, section()) as store:
        assert await store.get("me", "a") is None
        for _ in range(100):
            if not await asyncio.to_thread(rows, path):
                break
            await asyncio.sleep(0.02)
    assert await asyncio.to_thread(rows, path) == []


async def test_the_disk_is_waited_for_by_a_thread_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    packed = table._packed

    def watched(value: object) -> bytes:
        threads.add(threading.current_thread().name)
        return packed(value)

    monkeypatch.setattr(table, "_packed", watched)
    async with ResponsesStore(tmp_path / "r.sqlite", section()) as store:
        await asyncio.gather(
            *(store.put("me", response(f"r{i}"), [HI]) for i in range(5))
        )
    assert threads == {"responses_0"}


async def test_a_damaged_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(b"no database, and long enough to be looked at" * 99)
    with pytest.raises(OSError, match=r"r\.sqlite"):
        async with ResponsesStore(path, section()):
            pass


async def test_a_newer_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OSError, match="newer version"):
        async with ResponsesStore(path, section()):
            pass


async def test_what_cannot_be_stored_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ResponsesStore(tmp_path / "r.sqlite", section()) as store:
        await store.put("me", response("a"), [HI])
        await store.put("me", response("a"), [HI])
        assert "response a was not stored" in caplog.text
        with sqlite3.connect(tmp_path / "r.sqlite") as connection:
            connection.execute("DROP TABLE outputs")
            connection.execute("DROP TABLE responses")
        connection.close()
        with pytest.raises(ApiError) as caught:
            await store.get("me", "a")
        assert (caught.value.status, caught.value.code) == (503, "store_failed")
