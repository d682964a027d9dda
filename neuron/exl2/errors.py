"""The one error of the format layer."""

from pathlib import Path

_MAX_SHOWN = 200


def shown_name(name: str) -> str:
    """A name from an untrusted file, printable and of bounded length."""
    text = ascii(name)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class FormatError(Exception):
    """A file, or one tensor in it, is not what the format allows.

    `file` is the file or folder at fault, `tensor` the tensor's name or None where
    the file as a whole is at fault, `reason` says what is wrong and what would be
    right.
    """

    def __init__(self, file: Path, tensor: str | None, reason: str) -> None:
        where = f"{file}" if tensor is None else f"{file}: tensor {shown_name(tensor)}"
        super().__init__(f"{where}: {reason}")
        self.file = file
        self.tensor = tensor
        self.reason = reason
