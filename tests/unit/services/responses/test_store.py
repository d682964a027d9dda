"""Stored responses: whose they are, how long they stay, and how much room they take."""

import asyncio
import random
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neuron.protocol.errors import ApiError
from services.config import ResponsesSection
from services.responses import table
from services.responses.store import ResponsesStore
from services.responses.table import ResponsesTable, Stored, TooLargeError

HOUR = 3600.0
MB = 1024 * 1024
ROOM = 100_000
HI = {"id": "msg_0", "role": "user", "content": "Hi"}


def response(id_: str, text: str = "Yes") -> dict[str, Any]:
    item = {"id": f"msg_{id_}", "type": "message", "text": text}
    return {"id": id_, "output": [item]}


def noise(size: int) -> str:
    """A text that takes about that many bytes, also when it is compressed."""
    return random.Random(size).randbytes(size).hex()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[ResponsesTable]:
    opened = ResponsesTable(tmp_path / "r.sqlite", max_age_s=HOUR, max_bytes=ROOM)
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
        kept.put("me", Stored(response(f"r{number:02}", noise(9000)), [HI]), number)
    ids = rows(tmp_path / "r.sqlite")
    assert ids == [f"r{number:02}" for number in range(20 - len(ids), 20)]
    assert 3 < len(ids) < 20


def test_the_file_stays_as_large_as_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    opened = ResponsesTable(path, max_age_s=HOUR, max_bytes=ROOM)
    for number in range(100):
        size = number % 7 * 1000
        opened.put("me", Stored(response(f"r{number}", noise(size)), [HI]), number)
    opened.close()
    assert ROOM / 2 < path.stat().st_size < ROOM * 1.2


def test_what_is_larger_than_all_room_is_not_kept(kept: ResponsesTable) -> None:
    kept.put("me", Stored(response("a"), [HI]), 0)
    with pytest.raises(TooLargeError, match="space"):
        kept.put("me", Stored(response("b", noise(ROOM)), [HI]), 0)
    assert kept.get("me", "b", 1) is None
    assert kept.get("me", "a", 1) is not None


def test_what_would_grow_when_it_is_read_is_not_kept(
    kept: ResponsesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "LARGEST", 10_000)
    blank = {"role": "user", "content": " " * 10_000}
    with pytest.raises(TooLargeError, match="10000"):
        kept.put("me", Stored(response("a"), [blank]), 0)


def test_adding_one_looks_at_no_other(kept: ResponsesTable) -> None:
    for number in range(200):
        kept.put("me", Stored(response(f"r{number}"), [HI]), number)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 10
        return 0

    kept._connection.set_progress_handler(step, 10)
    kept.put("me", Stored(response("a"), [HI]), 200)
    assert 0 < steps < 1000


def test_items_of_one_response_are_read_at_once(
    kept: ResponsesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"msg_{number}" for number in range(50)]
    kept.put("me", Stored({"id": "a", "output": [{"id": id_} for id_ in ids]}, []), 0)
    read, unpacked = [], table._unpacked

    def watched(data: bytes) -> Any:
        read.append(data)
        return unpacked(data)

    monkeypatch.setattr(table, "_unpacked", watched)
    assert list(kept.outputs("me", ids, 1)) == ids
    assert len(read) == 1


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
    async with ResponsesStore(tmp_path / "r.sqlite", section(max_mb=1)) as store:
        await store.put("me", response("a"), [HI])
        await store.put("me", response("a"), [HI])
        assert "response a was not stored" in caplog.text
        await store.put("me", response("b", noise(MB)), [HI])
        assert "response b was not stored" in caplog.text
        with sqlite3.connect(tmp_path / "r.sqlite") as connection:
            connection.execute("DROP TABLE outputs")
            connection.execute("DROP TABLE responses")
        connection.close()
        with pytest.raises(ApiError) as caught:
            await store.get("me", "a")
        assert (caught.value.status, caught.value.code) == (503, "store_failed")


async def test_a_damaged_response_is_told(tmp_path: Path) -> None:
    async with ResponsesStore(tmp_path / "r.sqlite", section()) as store:
        await store.put("me", response("a"), [HI])
        with sqlite3.connect(tmp_path / "r.sqlite") as connection:
            connection.execute("UPDATE responses SET response = x'00'")
        connection.close()
        for asked in (store.get("me", "a"), store.outputs("me", ["msg_a"])):
            with pytest.raises(ApiError) as caught:
                await asked
            assert (caught.value.status, caught.value.code) == (503, "store_failed")


def test_two_gateways_may_share_it(tmp_path: Path) -> None:
    def fill(owner: str) -> None:
        opened = ResponsesTable(tmp_path / "r.sqlite", max_age_s=HOUR, max_bytes=MB)
        for number in range(50):
            opened.put(owner, Stored(response(f"{owner}{number}"), [HI]), number)
        opened.close()

    owners = ["a", "b", "c"]
    with ThreadPoolExecutor(len(owners)) as threads:
        list(threads.map(fill, owners))
    assert len(rows(tmp_path / "r.sqlite")) == 150


async def test_a_disk_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = threading.Event()
    async with ResponsesStore(tmp_path / "r.sqlite", section()) as store:
        monkeypatch.setattr(table, "_packed", lambda _: hanging.wait(10))
        monkeypatch.setattr("services.responses.store._DEADLINE_S", 0.05)
        await store.put("me", response("a"), [HI])
    assert "response a was not stored: not done within 0.05 s" in caplog.text
    assert "not closed: not done within 0.05 s" in caplog.text
    hanging.set()
