"""TOML configuration: where it is found, what overrides it, how it is refused.

Looked up: the path given, then the user's configuration folder, then `/etc/cortex`.
Environment variables override single values: `CORTEX_GATEWAY__LISTEN` sets `listen`
of `[gateway]`. Unknown keys and bad values are errors with file, key and line.
"""

import logging
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from neuron.protocol import paths

log = logging.getLogger(__name__)

_PLAIN: Final = frozenset({"token"})
"""Keys whose variables hold no TOML: a token may look like a number."""
SECRET: Final = "secret"
"""Type of the pydantic error whose input must not be shown."""


class ConfigModel(BaseModel):
    """Base of every section: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


C = TypeVar("C", bound=ConfigModel)


class ConfigError(Exception):
    """A configuration that cannot be used; the message names file, line and key."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A configuration and the file it came from; None where only defaults apply."""

    config: C
    path: Path | None


def find(name: str, explicit: Path | None = None) -> Path | None:
    """The file that `name` resolves to, or None where there is none.

    Raises:
        ConfigError: `explicit` does not exist.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise ConfigError(f"{explicit}: no such file")
        return explicit
    for folder in (paths.config_dir(), paths.SYSTEM_CONFIG_DIR):
        if (folder / name).is_file():
            return folder / name
    return None


def load(
    model: type[C],
    name: str,
    *,
    explicit: Path | None = None,
    env_prefix: str | None = None,
    environ: Mapping[str, str] = os.environ,
    show_values: bool = True,
) -> Loaded[C]:
    """Find, read, override and validate one configuration file.

    Without `show_values` no error says what was written instead.

    Raises:
        ConfigError: it is unreadable, not TOML, or has a key or value that is wrong.
    """
    path = find(name, explicit)
    text = _read(path) if path else ""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    overridden = _apply_environment(values, model, env_prefix, environ)
    try:
        return Loaded(model.model_validate(values), path)
    except ValidationError as error:
        reasons = [
            _explain(e, path, text, overridden, show_value=show_values)
            for e in error.errors()
        ]
        raise ConfigError("\n".join(reasons)) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _apply_environment(
    values: dict[str, Any],
    model: type[BaseModel],
    prefix: str | None,
    environ: Mapping[str, str],
) -> dict[tuple[str, ...], str]:
    """Set overridden values in place; returns key → the variable that set it."""
    overridden = {}
    for variable, raw in environ.items():
        if prefix is None or not variable.startswith(prefix):
            continue
        key = tuple(variable.removeprefix(prefix).lower().split("__"))
        if key[0] not in model.model_fields:
            # Other programs share the prefix: AWS's SDK reads NEURON_RT_*.
            log.warning("environment variable %s sets nothing here", variable)
            continue
        table = values
        for part in key[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{variable}: '{part}' is not a table")
        table[key[-1]] = raw if key[-1] in _PLAIN else _toml_value(raw)
        overridden[key] = variable
    return overridden


def _toml_value(raw: str) -> Any:
    """`raw` as a TOML value where it is one, else as the string it is."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(
    error: Any,
    path: Path | None,
    text: str,
    overridden: dict[tuple[str, ...], str],
    *,
    show_value: bool,
) -> str:
    location: tuple[str | int, ...] = error["loc"]
    key = ".".join(str(part) for part in location)
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        reason = "unknown key"
    elif error["type"] == "tuple_type" and isinstance(error["input"], dict):
        reason = f"should be tables, each written as [[{key}]]"
    elif show_value and location and _may_be_shown(error):
        reason += f", got {error['input']!r}"
    variable = overridden.get(tuple(str(part) for part in location))
    if variable:
        return f"environment variable {variable}: {reason}"
    return ": ".join(filter(None, (_place(path, text, location), key, reason)))


def _may_be_shown(error: Any) -> bool:
    """A whole table is long, and may have secrets among its values."""
    plain = not isinstance(error["input"], dict | list)
    return plain and error["type"] not in ("missing", SECRET)


def where(path: Path | None, location: tuple[str | int, ...]) -> str:
    """File and line of the key at `location`, for an error."""
    return _place(path, _read(path) if path else "", location)


def refuse_repeated(
    path: Path | None, table: str, key: str, values: Sequence[str | None]
) -> None:
    """
    Raises:
        ConfigError: two entries of `[[table]]` have the same value of this key.
    """
    for index, value in enumerate(values):
        if value is not None and value in values[:index]:
            place = where(path, (table, index, key))
            raise ConfigError(f"{place}: {table}.{index}.{key}: '{value}' is repeated")


def _place(path: Path | None, text: str, location: tuple[str | int, ...]) -> str:
    line = line_of(text, location)
    return f"{path}:{line}" if line else f"{path or 'configuration'}"


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-.\"']+)\s*=")


def line_of(text: str, location: tuple[str | int, ...]) -> int | None:
    """1-based line of the key at `location`, or of the closest table around it."""
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        here = table
        if header := _HEADER.match(line):
            here = table = _opened(header[2], header[1] == "[[", counts)
        elif key := _KEY.match(line):
            here = (*table, *_parts(key[1]))
        depth = len(here)
        if here and location[:depth] == here and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _opened(
    name: str, is_one_of_many: bool, counts: dict[tuple[str | int, ...], int]
) -> tuple[str | int, ...]:
    """Location of the table that a header opens; `counts` has the last index of each
    array of tables so far."""
    table: tuple[str | int, ...] = ()
    *outer, last = _parts(name)
    for part in outer:
        table = (*table, part)
        if table in counts:
            table = (*table, counts[table])
    table = (*table, last)
    if is_one_of_many:
        counts[table] = counts.get(table, -1) + 1
        table = (*table, counts[table])
    return table


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]
