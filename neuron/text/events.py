"""What a model's output turns out to be, piece by piece."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of the thought before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model calls a tool; its arguments follow."""

    index: int
    """Of the call in the reply, from 0."""
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More of the arguments: all deltas of a call make up one JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnded:
    """Nothing more of this call follows.

    `complete` is false where the reply broke off, or stopped making sense, inside the
    arguments, which are then no valid JSON.
    """

    index: int
    complete: bool = True


OutputEvent = (
    ContentDelta | ReasoningDelta | ToolCallStarted | ToolArgumentsDelta | ToolCallEnded
)
