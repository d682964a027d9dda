"""Keeps this process from reaching anything beyond loopback, and tells what tried to.

    python -m tests.support.loopback MODULE [ARGUMENT…]

runs another module so, as `python -m` would.
"""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from neuron.protocol.address import is_loopback

_SENDS: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOKS_UP: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})
_guards: Final[list[list[str]]] = []
"""What was refused, for each guard that is on; the innermost one is told."""


class BeyondLoopbackError(ConnectionError):
    """A program wanted to reach another host."""


@contextmanager
def only_loopback() -> Iterator[list[str]]:
    """Refuse whatever would leave this machine; yields what was refused.

    It sees all that is done with Python's own sockets, on every thread and event loop.
    """
    _watch()
    refused: list[str] = []
    _guards.append(refused)
    try:
        yield refused
    finally:
        _guards.pop()


@cache
def _watch() -> None:
    """Once in a process: an audit hook stays."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards:
        return
    if event in _SENDS:
        address = arguments[1]
        # Where a UNIX socket is, or nowhere else than where it is connected to.
        if not isinstance(address, tuple):
            return
        host = address[0]
    elif event in _LOOKS_UP:
        host = arguments[0]
    else:
        return
    name = host.decode("idna") if isinstance(host, bytes) else host
    if name and not is_loopback(name):
        _guards[-1].append(f"{event} {name}")
        raise BeyondLoopbackError(f"{name} is not on this machine")


def main() -> None:
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    with only_loopback() as refused:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        finally:
            if refused:
                raise BeyondLoopbackError(", ".join(refused))


if __name__ == "__main__":
    main()
