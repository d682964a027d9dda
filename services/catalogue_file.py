"""Edits of models.toml that leave its comments, order and spacing alone."""

from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

from neuron.protocol.announce import write_atomically
from neuron.protocol.config_file import ConfigError

_NEW_FILE_MODE = 0o600


def set_pinned(path: Path, model: str, pinned: bool) -> None:
    """Write `pinned` into the model's entry; file and entry are made where absent.

    Blocking.

    Raises:
        ConfigError: the file is not TOML that this can edit, or cannot be written.
    """
    target = path.resolve()
    try:
        text = target.read_text(encoding="utf-8") if target.exists() else ""
        edited = edit_pinned(text, model, pinned)
        if edited != text:
            mode = target.stat().st_mode & 0o777 if text else _NEW_FILE_MODE
            write_atomically(target, edited, mode)
    except (OSError, UnicodeDecodeError, TOMLKitError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def edit_pinned(text: str, model: str, pinned: bool) -> str:
    """models.toml's text with this model's `pinned` set.

    Raises:
        ValueError: `models` is something else than an array of tables.
        TOMLKitError: `text` is not TOML.
    """
    document = tomlkit.parse(text)
    models = document.get("models")
    if models is not None and not isinstance(models, AoT):
        raise ValueError("`models` should be written as [[models]] tables")
    for table in models or ():
        if table.get("id") == model:
            if pinned or "pinned" in table:
                table["pinned"] = pinned
            return tomlkit.dumps(document)
    if not pinned:
        return text
    entry = tomlkit.table()
    entry["id"] = model
    entry["pinned"] = True
    if models is None:
        models = tomlkit.aot()
        document["models"] = models
    models.append(entry)
    return tomlkit.dumps(document)
