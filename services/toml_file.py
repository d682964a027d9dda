"""Edits of TOML files that leave comments, order and spacing alone. Blocking."""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Table

from neuron.protocol.announce import write_atomically
from neuron.protocol.config_file import ConfigError

_NEW_FILE_MODE: Final = 0o600


@contextmanager
def editing(
    path: Path, *, head: str = "", most: int = 0o777
) -> Iterator[tomlkit.TOMLDocument]:
    """The file as it is, written back on the way out if it was changed; one editor at a
    time. A new one begins with `head`, and is private to the user; of an old one's mode
    no more than `most` stays.

    Raises:
        ConfigError: it is not TOML, cannot be written, or a ValueError says what of it
            cannot be edited.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(target.parent):
            exists = target.exists()
            mode = target.stat().st_mode & most if exists else _NEW_FILE_MODE
            text = target.read_text(encoding="utf-8") if exists else head
            document = tomlkit.parse(text)
            yield document
            if (edited := tomlkit.dumps(document)) != text:
                write_atomically(target, edited, mode)
    except (OSError, UnicodeDecodeError, TOMLKitError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def tables(document: tomlkit.TOMLDocument, name: str) -> Sequence[Table]:
    """The tables of the array of that name; none where there is none.

    Raises:
        ValueError: it is something else.
    """
    found = document.get(name)
    if found is None:
        return ()
    if not isinstance(found, AoT):
        raise ValueError(f"`{name}` should be written as [[{name}]] tables")
    return found


def add_table(
    document: tomlkit.TOMLDocument, name: str, values: Mapping[str, Any]
) -> None:
    """One more at the end of the array of that name, which is made where there is none.

    Raises:
        ValueError: it is something else.
    """
    table = tomlkit.table()
    table.update(values)
    if not tables(document, name):
        document[name] = tomlkit.aot()
    document[name].append(table)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
