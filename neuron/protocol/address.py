"""Where a process listens."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a port; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`HOST:PORT`, or `[IPV6]:PORT`.

        Raises:
            ValueError: it is neither.
        """
        host, _, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        ambiguous = ":" in bare and bare == host
        if not bare or ambiguous or not port.isdecimal() or int(port) > 65535:
            raise ValueError("should be HOST:PORT or [IPV6]:PORT, as in 127.0.0.1:8080")
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this very host can reach it."""
        return is_loopback(self.host)

    def url(self, port: int | None = None) -> str:
        """`http://host:port`, with the port that was really bound."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port if port is None else port}"


def is_loopback(host: str) -> bool:
    """Whether `host` names this very machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(text: str) -> str:
    Address.parse(text)
    return text


Listen = Annotated[str, AfterValidator(_listen)]
"""A string that `Address.parse` takes."""
