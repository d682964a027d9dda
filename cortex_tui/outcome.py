"""What a command line tells of what it did."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    text: str
    """For standard output."""
    notes: tuple[str, ...] = ()
    """For whoever looks on."""
