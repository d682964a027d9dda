"""What a client is told of a gateway, and where it wants to be told."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cortex_tui.connect.formats import Format, fresh
from cortex_tui.connect.merge import IfAbsent, Path as SettingPath, dotted, plain

PLACEHOLDER: Final = "no-key-needed"
"""For clients that insist on a key where the gateway asks for none."""
PROVIDER: Final = "cortex"
"""What clients call the gateway."""
USUAL_CONTEXT: Final = 32768
"""Told to clients that insist on a number where it is not known."""
_LARGEST_ANSWER: Final = 32000

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Connection:
    """A gateway, and the model and key to use there."""

    url: str
    model: str
    key: str | None = None
    context: int | None = None
    """Its longest context, in tokens."""
    capabilities: frozenset[str] = frozenset({"chat", "tools"})

    @property
    def v1(self) -> str:
        """What OpenAI's clients call the base URL."""
        return f"{self.url}/v1"

    @property
    def token(self) -> str:
        return self.key or PLACEHOLDER

    @property
    def token_setting(self) -> str | IfAbsent:
        """The key for a settings file; a placeholder replaces no key that is there."""
        return self.key or IfAbsent(PLACEHOLDER)

    @property
    def answer(self) -> int | None:
        """The longest answer to ask for: a share of the context."""
        return min(self.context // 4, _LARGEST_ANSWER) if self.context else None

    @property
    def tools(self) -> bool:
        return "tools" in self.capabilities

    @property
    def images(self) -> bool:
        return "vision" in self.capabilities


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file that a client reads, and what it should say."""

    paths: tuple[Path, ...]
    """Where it may be; the first that exists is meant, or else the first."""
    format: Format
    wanted: Any

    @property
    def path(self) -> Path:
        existing = (path for path in self.paths if path.exists())
        return next(existing, self.paths[0])

    @property
    def text(self) -> str:
        """As a new file."""
        return fresh(self.format, self.wanted)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where this user's clients keep their settings."""

    home: Path
    environ: Environment = field(default_factory=dict)

    def of(self, variable: str, default: Path) -> Path:
        """The folder that an environment variable names, or else the default."""
        named = self.environ.get(variable)
        return Path(named) if named else default

    @property
    def config(self) -> Path:
        return self.of("XDG_CONFIG_HOME", self.home / ".config")


@dataclass(frozen=True, slots=True)
class Client:
    """How one client is pointed at a gateway.

    It has `environment`, or `program`, or else `files`; it may have files besides, for
    what shall last.
    """

    id: str
    name: str
    environment: Callable[[Connection], Environment] | None = None
    """Enough by itself."""
    program: Callable[[Connection], str] | None = None
    """A whole program or command line."""
    files: Callable[[Connection, Folders], tuple[SettingsFile, ...]] | None = None
    beside: Callable[[Connection], Environment] | None = None
    """Environment that the files need."""
    start: Callable[[Connection], str] | None = None
    """The command to type then."""
    needs_tools: bool = False
    """Whether it is of little use with a model that cannot call tools."""
    line: Callable[[Connection], str] | None = None
    """The line of a longer program that says most."""

    def one_line(self, connection: Connection, folders: Folders) -> str:
        """What a reader needs to know, in one line of code."""
        if line := self.line or self.program:
            return line(connection)
        if self.environment is not None:
            words = [f"{k}={shlex.quote(v)}" for k, v in _essential(self, connection)]
            return " ".join([*words, *([self.start(connection)] if self.start else [])])
        assert self.files is not None
        file = self.files(connection, folders)[0]
        where, url = next(_urls(plain(file.wanted), connection.url))
        return f"{file.path}: {dotted(where)} = {url}"


def _essential(client: Client, connection: Connection) -> Iterator[tuple[str, str]]:
    """The first variable for each thing that has to be told."""
    assert client.environment is not None
    left = [connection.url, connection.token, connection.model]
    for name, value in client.environment(connection).items():
        told = [word for word in left if word in value]
        if told:
            yield name, value
            left = [word for word in left if word not in told]


def _urls(
    value: Any, url: str, path: SettingPath = ()
) -> Iterator[tuple[SettingPath, str]]:
    """Where settings name the gateway."""
    if isinstance(value, Mapping | list):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _urls(part, url, (*path, key))
    elif isinstance(value, str) and value.startswith(url):
        yield path, value
