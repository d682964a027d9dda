"""The guard that keeps clients from reaching anything beyond loopback."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loopback import BeyondLoopbackError, only_loopback

ELSEWHERE = "192.0.2.1"
"""Kept for documentation; nobody is there, and nothing is sent to it either."""


def test_refuses_connections_and_names_beyond_this_machine() -> None:
    with only_loopback() as refused:
        with socket.socket() as stream, pytest.raises(BeyondLoopbackError):
            stream.connect((ELSEWHERE, 80))
        with (
            socket.socket(type=socket.SOCK_DGRAM) as datagrams,
            pytest.raises(BeyondLoopbackError),
        ):
            datagrams.sendto(b"", (ELSEWHERE, 53))
        with pytest.raises(BeyondLoopbackError):
            socket.getaddrinfo("example.invalid", 80)
    assert refused == [
        f"socket.connect {ELSEWHERE}",
        f"socket.sendto {ELSEWHERE}",
        "socket.getaddrinfo example.invalid",
    ]


async def test_refuses_those_of_an_event_loop() -> None:
    with only_loopback() as refused:
        with pytest.raises(BeyondLoopbackError):
            await asyncio.open_connection(ELSEWHERE, 80)
        assert refused


def test_lets_through_what_stays_here() -> None:
    with only_loopback() as refused, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("localhost", "127.0.0.1"):
            socket.create_connection((host, port)).close()
    assert refused == []


def test_fails_a_program_that_went_on_without(tmp_path: Path) -> None:
    script = "import socket\ntry: socket.gethostbyname('a.invalid')\nexcept OSError: 0"
    (tmp_path / "curious.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.loopback", "curious"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode
    assert "BeyondLoopbackError: socket.gethostbyname a.invalid" in done.stderr
