"""The protocol's number and the build that speaks it."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

PROTOCOL = 1
"""Raised when a field changes meaning; added fields leave it as it is."""


@cache
def build_version() -> str:
    """Version of the installed distribution, or `0+unknown` from a bare checkout."""
    try:
        return version("cortex-tui")
    except PackageNotFoundError:
        return "0+unknown"
