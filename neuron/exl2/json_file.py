"""JSON files of a model folder, read with a bound and a clear error."""

import json
from pathlib import Path
from typing import Final

from neuron.exl2.errors import FormatError

MAX_JSON_BYTES: Final = 32 << 20
"""The shard index of the largest models is a third of this."""


def read_json_object(file: Path) -> dict[str, object]:
    """The object that a JSON file holds.

    Raises:
        FormatError: it is too large, not JSON, or not an object.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise FormatError(file, None, f"{size} bytes are over {MAX_JSON_BYTES}")
    try:
        found = json.loads(file.read_bytes().decode("utf-8-sig"))
    except RecursionError:
        raise FormatError(file, None, "is nested too deeply") from None
    except ValueError as error:
        raise FormatError(file, None, f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError(file, None, "is not a JSON object")
    return found
