"""Where the gateway is: a UNIX socket on this host, or a URL."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

DEFAULT_PORT = 31313


class TargetError(ValueError):
    """An address that cannot be used; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address of the admin API; the socket is preferred where there is one."""

    url: str
    socket: str | None = None
    key: str | None = field(default=None, repr=False)
    """Shown as a bearer token; the socket needs none."""

    @property
    def label(self) -> str:
        """Short name for the status line: `local:31313`, `gpu7:31313`."""
        parts = urlsplit(self.url)
        host = "local" if self.socket else parts.hostname or self.url
        return f"{host}:{parts.port}" if parts.port else host


def parse(text: str) -> Target:
    """`http://host:port`, `host:port`, `host` or `unix:/path`.

    Raises:
        TargetError: it is none of these.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise TargetError(f"'{text}': write unix:/absolute/path")
        return Target("http://localhost", path)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
        (parts.hostname or "").encode("idna")  # as resolving it will, and no later
    except UnicodeError as error:
        raise TargetError(f"'{text}' is not a host name") from error
    except ValueError as error:
        raise TargetError(f"'{text}' is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TargetError(f"'{text}' is not an address; write http://host:31313")
    if "@" in parts.netloc:
        # Without the address, which says a secret.
        raise TargetError("an address has no user and password; show a key by --key")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None and "://" not in text:
        port = DEFAULT_PORT
    suffix = f":{port}" if port is not None else ""
    return Target(f"{parts.scheme}://{host}{suffix}{parts.path.rstrip('/')}")
