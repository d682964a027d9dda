"""What is wrong with a model folder."""

from pathlib import Path


class ModelError(Exception):
    """A model folder cannot be used; the message names the file and what is wrong."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason
