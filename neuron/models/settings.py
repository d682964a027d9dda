"""Typed access to a model's JSON files, with errors that name file and key."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuron.exl2.errors import FormatError
from neuron.exl2.json_file import read_json_object
from neuron.models.errors import ModelError

_MAX_INTEGER: Final = 1 << 40
"""No size, length or token id of a model comes near it."""
_FIRST_NAMES: Final = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""What GPT-2 and those after its pattern call these."""


class Settings:
    """One JSON file; a key that is missing or null counts as not given."""

    def __init__(self, file: Path, values: Mapping[str, object]) -> None:
        self.file = file
        self._values = values

    @classmethod
    def read(cls, file: Path) -> "Settings":
        """Read a file that must be there.

        Raises:
            ModelError: it is missing or not a JSON object.
        """
        try:
            return cls(file, read_json_object(file))
        except FormatError as error:
            raise ModelError(file, error.reason) from None
        except FileNotFoundError:
            raise ModelError(file, "is missing") from None
        except OSError as error:
            raise ModelError(file, f"cannot be read: {error.strerror}") from None

    @classmethod
    def read_if_there(cls, file: Path) -> "Settings":
        """Read a file that may be missing, which is as if it were empty."""
        return cls.read(file) if os.path.lexists(file) else cls(file, {})

    def get(self, key: str) -> object:
        """The raw value, or None; a vision model keeps its decoder's in text_config."""
        found = self._values.get(key)
        if found is None:
            text = self._values.get("text_config")
            found = text.get(key) if isinstance(text, dict) else None
        if found is None and key in _FIRST_NAMES:
            found = self._values.get(_FIRST_NAMES[key])
        return found

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer; without a default it must be given."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelError(self.file, f"{key} is missing")
        if not _is_integer(value) or value == 0:
            raise ModelError(
                self.file, f"{key} must be a positive integer, not {_shown(value)}"
            )
        return int(str(value))

    def ids(self, key: str) -> tuple[int, ...]:
        """One token id or several; empty where not given."""
        value = self.get(key)
        if value is None:
            return ()
        several = value if isinstance(value, list) else [value]
        if not all(_is_integer(item) for item in several):
            raise ModelError(
                self.file,
                f"{key} must be a token id or a list of them, not "
                + ", ".join(_shown(item) for item in several[:8]),
            )
        return tuple(several)

    def section(self, key: str) -> "Settings":
        """An object inside the file; empty where not given."""
        value = self.get(key)
        if value is None:
            return Settings(self.file, {})
        if not isinstance(value, dict):
            raise ModelError(self.file, f"{key} must be an object, not {_shown(value)}")
        return Settings(self.file, value)


def _is_integer(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INTEGER


def _shown(value: object) -> str:
    """A value for a message; never descends into what a hostile file nests."""
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else ascii(value)[:60]
