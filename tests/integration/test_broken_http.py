"""Gateway and neuron refuse what is no HTTP in the envelope, and serve on."""

import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import pytest

from tests.support.processes import (
    Home,
    Process,
    running_gateway,
    running_neuron,
)

BROKEN = (
    (b"hello\r\n\r\n", b"400"),
    (b"BREW /health HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
    (b"GET /health HTTP/1.1\r\nAuthorization: Bearer ck-SECRET\0\r\n\r\n", b"400"),
    (b"GET /health HTTP/1.1\r\nX-Api-Key: ck-SECRET" + b"x" * 20_000, b"431"),
    (b"PROPFIND /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"405"),
)


def answer_to(process: Process, raw: bytes) -> bytes:
    url = urlsplit(process.url)
    assert url.hostname
    assert url.port
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(raw)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize("running", [running_neuron, running_gateway])
def test_what_is_no_http_is_refused_in_the_envelope(
    home: Home, running: Callable[..., AbstractContextManager[Process]]
) -> None:
    environ = {"CORTEX_LOCAL__NEURON": "off"} if running is running_gateway else {}
    with running(home, environ=environ) as process:
        for raw, status in BROKEN:
            head, _, body = answer_to(process, raw).partition(b"\r\n\r\n")
            assert head.split()[1] == status
            assert json.loads(body)["error"]["message"]
        good = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert answer_to(process, good).startswith(b"HTTP/1.1 200")
        assert "Traceback" not in process.log_text()
        assert "127.0.0.1 is refused: this is not HTTP: " in process.log_text()
        assert "SECRET" not in process.log_text()
