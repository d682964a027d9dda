"""What a client asks of the gateway and what it is answered, seen on the way."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from neuron.protocol.sse import SseParser

DEADLINE_S = 120.0
_PER_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding"})
_CHUNK = 65536


@dataclass(slots=True)
class Asked:
    """One request and its answer."""

    method: str
    path: str
    """With its query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes
    status: int = 0
    request_id: str = ""
    """As the gateway's log names it."""
    answer: bytearray = field(default_factory=bytearray)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def body(self) -> Any:
        return json.loads(self.content or b"{}")

    @property
    def refusal(self) -> str:
        """The error that it was answered with, or nothing."""
        return self.answer.decode() if self.status >= 400 else ""

    def text(self) -> str:
        """The text of a streamed answer, in any dialect."""
        events = SseParser().feed(bytes(self.answer))
        return "".join(
            _text(json.loads(event.data)) for event in events if event.data[0] == "{"
        )


def _text(event: Any) -> str:
    match event:
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
        case _:
            return ""


@dataclass(frozen=True, slots=True)
class Recorder:
    url: str
    asked: list[Asked]


@contextmanager
def recording(gateway: str) -> Iterator[Recorder]:
    """A proxy before the gateway that keeps what passes."""
    asked: list[Asked] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(gateway, asked))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Recorder(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(gateway: str, asked: list[Asked]) -> type[BaseHTTPRequestHandler]:
    address = urlsplit(gateway).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = self.rfile.read(int(headers.get("content-length", 0)))
            each = Asked(self.command, self.path, headers, content)
            asked.append(each)
            upstream = http.client.HTTPConnection(address, timeout=DEADLINE_S)
            try:
                self._answer(each, upstream)
            except ConnectionError:  # The client has left.
                self.close_connection = True
            finally:
                upstream.close()

        do_GET = do_HEAD = do_POST = relay

        def _answer(self, each: Asked, upstream: http.client.HTTPConnection) -> None:
            kept = {k: v for k, v in each.headers.items() if k not in _PER_HOP}
            upstream.request(each.method, each.path, each.content or None, kept)
            response = upstream.getresponse()
            each.status = response.status
            each.request_id = response.headers["X-Request-Id"]
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _PER_HOP:
                    self.send_header(name, value)
            if response.chunked:
                # Its end is the connection's.
                self.send_header("Connection", "close")
            self.end_headers()
            while piece := response.read1(_CHUNK):
                each.answer += piece
                self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
