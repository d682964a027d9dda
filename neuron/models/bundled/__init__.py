"""The model that comes with the package, so that everything works at once."""

from pathlib import Path


def bundled_root() -> Path:
    """The folder that holds the bundled models, each under its id."""
    return Path(__file__).resolve().parent
