"""Edits of models.toml."""

from pathlib import Path

import tomlkit

from services import toml_file


def set_pinned(path: Path, model: str, pinned: bool) -> None:
    """Write `pinned` into the model's entry; file and entry are made where absent.

    Blocking.

    Raises:
        ConfigError: the file is not TOML that this can edit, or cannot be written.
    """
    with toml_file.editing(path) as document:
        _set_pinned(document, model, pinned)


def _set_pinned(document: tomlkit.TOMLDocument, model: str, pinned: bool) -> None:
    for table in toml_file.tables(document, "models"):
        if table.get("id") == model:
            if pinned or "pinned" in table:
                table["pinned"] = pinned
            return
    if pinned:
        toml_file.add_table(document, "models", {"id": model, "pinned": True})
