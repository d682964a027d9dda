"""keys.toml: who has a key, and what it may do."""

import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from neuron.protocol import config_file, paths
from neuron.protocol.config_file import ConfigError, ConfigModel
from neuron.protocol.headers import MAX_PRIORITY
from services.keys import window

KEYS_TOML: Final = "keys.toml"
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_ID: Final = re.compile(r"[a-z0-9]{4,32}")
_HASH_LENGTH: Final = len("sha256:") + 64

Scope = Literal["admin", "inference", "read-only"]


def _hash(text: str) -> str:
    kind, _, digits = text.partition(":")
    known = len(text) == _HASH_LENGTH and set(digits) <= set("0123456789abcdef")
    if kind != "sha256" or not known:
        raise ValueError(
            "should be what `cortex-tui keys add` writes: sha256: and 64 hex digits"
        )
    return text


def _window(text: str) -> str:
    window.hours(text)
    return text


def _text(text: str) -> str:
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("should be printable text without blanks around it")
    return text


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("should be 4 to 32 lowercase letters and digits")
    return text


Text = Annotated[str, AfterValidator(_text)]
Hash = Annotated[str, AfterValidator(_hash)]
Count = Annotated[int, Field(ge=1)]


class KeySection(ConfigModel):
    """One `[[keys]]`."""

    id: Annotated[str, AfterValidator(_id)]
    """What the key begins with, after `ck-`."""
    name: Annotated[Text, Field(max_length=60)]
    """Whose it is: in the console, in logs and in metrics."""
    hash: Annotated[Hash, Field(repr=False)]
    """SHA-256 of the key; the key itself is nowhere."""
    scope: Scope = "inference"
    """`inference` may use models, `read-only` may look at models and fleet, `admin` may
    do everything."""
    models: Annotated[tuple[Text, ...], Field(min_length=1)] = ("*",)
    """The models it may use, by their own names; `*` stands for anything."""
    requests_per_minute: Count | None = None
    """Requests for an answer that it may begin in any minute."""
    tokens_per_minute: Count | None = None
    """Tokens, prompt and answer, after which it waits for the minute to pass."""
    budget_tokens: Count | None = None
    """Tokens, prompt and answer, that it may spend in a window."""
    budget_cost: Annotated[float, Field(gt=0)] | None = None
    """What it may spend in a window, by the `cost` of the models in `models.toml`."""
    window: Annotated[str, AfterValidator(_window)] = "30d"
    """The span of a budget, in hours, days or weeks, from `created_at` on."""
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    """Its requests are served before those of a lower one."""
    created_at: datetime | None = None
    """When it was made."""
    revoked: bool = False
    """It is refused; the entry stays, so that the door does."""
    previous_hash: Hash | None = Field(default=None, repr=False)
    """The key before the last `rotate`."""
    previous_until: datetime | None = None
    """Until when that one is good."""

    @model_validator(mode="after")
    def _previous_ends(self) -> Self:
        if (self.previous_hash is None) != (self.previous_until is None):
            raise ValueError("previous_hash and previous_until go together")
        return self

    def may_use(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def window_hours(self) -> int:
        return window.hours(self.window)

    def window_began(self, now: float) -> int:
        """The hour in which the present window of its budget began."""
        first = 0.0 if self.created_at is None else epoch(self.created_at)
        return window.began(now, self.window_hours, first)

    def renews_at(self, now: float) -> float:
        """When the next window begins."""
        return (self.window_began(now) + self.window_hours) * window.HOUR_S


class KeysFile(ConfigModel):
    """keys.toml."""

    keys: tuple[KeySection, ...] = ()


@dataclass(frozen=True, slots=True)
class Keys:
    """keys.toml, read; `found` is False where there is no such file yet."""

    entries: tuple[KeySection, ...] = ()
    path: Path = Path(KEYS_TOML)
    """Where it was found, or where it would be created."""
    found: bool = False
    warning: str | None = None
    """What is wrong with the file itself, and what to do about it."""


def epoch(moment: datetime) -> float:
    """Epoch seconds; a moment without a time zone is taken as UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.timestamp()


def load_keys(explicit_config: Path | None = None) -> Keys:
    """Read the keys.toml beside `explicit_config`, or the one that is looked up.

    Raises:
        ConfigError: it cannot be used.
    """
    if explicit_config is not None:
        # Absolute, as it is told to command lines that run elsewhere.
        return read_keys(explicit_config.parent.resolve() / KEYS_TOML)
    return read_keys(lookup())


def lookup() -> Path:
    """The keys.toml that is in force without an explicit cortex.toml, or where it
    would be created."""
    return config_file.find(KEYS_TOML) or paths.config_dir() / KEYS_TOML


def read_keys(path: Path) -> Keys:
    """This keys.toml; an absent one has no keys.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        if not path.is_file():
            return Keys(path=path)
        warning = _exposure(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    loaded = config_file.load(KeysFile, KEYS_TOML, explicit=path, show_values=False)
    entries = loaded.config.keys
    config_file.refuse_repeated(path, "keys", "id", [entry.id for entry in entries])
    names = [None if entry.revoked else entry.name for entry in entries]
    config_file.refuse_repeated(path, "keys", "name", names)
    return Keys(entries, path, found=True, warning=warning)


def _exposure(path: Path) -> str | None:
    if path.stat().st_mode & _OTHERS:
        return f"{path} is open to every user of this host: chmod o-rwx {path}"
    return None
