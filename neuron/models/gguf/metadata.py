"""Typed access to a GGUF file's metadata, with errors that name file and key."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import shown_name
from neuron.models.errors import ModelError
from neuron.models.gguf.cursor import Value


class Metadata:
    """The keys of one file."""

    def __init__(self, path: Path, values: Mapping[str, Value]) -> None:
        self.path = path
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, reason: str) -> ModelError:
        """The error that says what is wrong with a key."""
        return ModelError(self.path, f"{key} {reason}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer; without a default it must be given."""
        value = self._given(key, default)
        if type(value) is not int or value <= 0:
            raise self.error(key, f"must be a positive integer, not {_shown(value)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default it must be given."""
        value = self._given(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, f"must be a number, not {_shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._given(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_shown(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default it must be given."""
        value = self._given(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {_shown(value)}")
        return value

    def strings(self, key: str) -> list[str]:
        """An array of strings, which must be given."""
        value = self._given(key, None)
        if not isinstance(value, list):
            raise self.error(key, f"must be an array of strings, not {_shown(value)}")
        return value

    def numbers(self, key: str, count: int) -> NDArray[Any]:
        """An array of as many finite numbers, which must be given."""
        value = self._given(key, None)
        if not isinstance(value, np.ndarray):
            raise self.error(key, f"must be an array of numbers, not {_shown(value)}")
        if not np.isfinite(value).all():
            raise self.error(key, "holds a number that is not finite")
        if len(value) != count:
            raise self.error(key, f"has {len(value)} elements, must have {count}")
        return value

    def token_id(self, key: str, vocabulary: int) -> int | None:
        """The id of a token, or None where it is not given."""
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < vocabulary:
            raise self.error(
                key, f"must be a token id under {vocabulary}, not {_shown(value)}"
            )
        return value

    def _given(self, key: str, default: Value | None) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        return value


def _shown(value: Value) -> str:
    """A value for a message, bounded."""
    if isinstance(value, list):
        return "an array of strings"
    if isinstance(value, np.ndarray):
        return "an array of numbers"
    return shown_name(value) if isinstance(value, str) else repr(value)
