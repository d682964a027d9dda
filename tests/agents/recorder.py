"""What a client asks of the gateway and what it is answered, seen on the way.

A model that is too small to choose a tool can be made to call one there, too.
"""

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


@dataclass(slots=True)
class Recorder:
    """A proxy before the gateway that keeps what passes."""

    gateway: str
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    force: str | None = None
    """The tool that the next request with tools is made to call."""

    def wanted(self, asked: Asked) -> bytes:
        """What is sent on for this request."""
        if self.force is None or not (asked.content and asked.body.get("tools")):
            return asked.content
        body, tool, self.force = asked.body, self.force, None
        if asked.path.startswith("/v1/messages"):
            body["tool_choice"] = {"type": "tool", "name": tool}
        elif asked.path == "/v1/responses":
            body["tool_choice"] = {"type": "function", "name": tool}
        else:
            body["tool_choice"] = {"type": "function", "function": {"name": tool}}
        return json.dumps(body).encode()


@contextmanager
def recording(gateway: str) -> Iterator[Recorder]:
    recorder = Recorder(gateway)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(recorder))
    recorder.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    address = urlsplit(recorder.gateway).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = self.rfile.read(int(headers.get("content-length", 0)))
            each = Asked(self.command, self.path, headers, content)
            recorder.asked.append(each)
            upstream = http.client.HTTPConnection(address, timeout=DEADLINE_S)
            try:
                self._answer(each, upstream)
            except ConnectionError:  # The client has left.
                self.close_connection = True
            finally:
                upstream.close()

        do_GET = do_HEAD = do_POST = relay

        def _answer(self, each: Asked, upstream: http.client.HTTPConnection) -> None:
            left_out = _PER_HOP | {"content-length"}
            kept = {k: v for k, v in each.headers.items() if k not in left_out}
            content = recorder.wanted(each)
            upstream.request(each.method, each.path, content or None, kept)
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
