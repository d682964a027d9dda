"""One HTTP request at a time, over a UNIX socket or TCP, by the standard library.

aiohttp takes longer to import than a whole `cortex-tui status` may take.
"""

import http.client
import json
import socket
from urllib.parse import urlsplit

from cortex_tui.target import Target


class Unreachable(Exception):
    """Nobody answers there; the message says where and why."""


class Refused(Exception):
    """The gateway answered with an error; the message is its own."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def no_gateway(target: Target) -> Refused:
    """For an answer that no gateway gives."""
    return Refused(f"{target.url} answers, but is not a cortex gateway")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


def request(
    target: Target, method: str, path: str, body: str | None = None, timeout: float = 10
) -> bytes:
    """The body of the answer.

    Raises:
        Unreachable: no connection, no answer in `timeout` seconds, or not HTTP.
        Refused: a status of 400 and more.
    """
    connection, prefix = _connection(target, timeout)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if target.key is not None and target.socket is None:
        headers["Authorization"] = f"Bearer {target.key}"
    try:
        connection.request(method, prefix + path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        where = target.socket or target.url
        raise Unreachable(f"no gateway answers at {where}: {_words(error)}") from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise Refused(error_message(answer.status, content), answer.status)
    return content


def _connection(
    target: Target, timeout: float
) -> tuple[http.client.HTTPConnection, str]:
    if target.socket is not None:
        return _UnixConnection(target.socket, timeout), ""
    parts = urlsplit(target.url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout), parts.path
    return http.client.HTTPConnection(host, port, timeout=timeout), parts.path


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it accepts connections, but does not answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def error_message(status: int, content: bytes) -> str:
    """What an error answer says, out of the OpenAI envelope where it has one."""
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = content.decode("utf-8", errors="replace").split()
        message = " ".join(words)[:200]
    if status == http.HTTPStatus.UNAUTHORIZED:
        message = f"{message} (--key or CORTEX_KEY)"
    return str(message) or f"HTTP {status}"
