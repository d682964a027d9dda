"""What each client is asked for, and what it should have understood."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

QUESTION = "They lived happily ever after.\n"
"""The model says something to it even as plain text, for its last token."""
ENDLESS = "Once upon a time"
"""What the other model answers for as long as it is let."""
LIMIT = 100
"""Tokens of an answer, more than it has."""
Ending = Literal["happy", "sad"]


class Tale(BaseModel):
    """What the tool takes, for clients that want it as a class."""

    model_config = ConfigDict(extra="forbid")
    ending: Ending


class Mood(BaseModel):
    """The structured output."""

    model_config = ConfigDict(extra="forbid")
    happy: bool


TALE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ending": {"type": "string", "enum": ["happy", "sad"]}},
    "required": ["ending"],
    "additionalProperties": False,
}
TALE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "tale",
        "description": "Tells a tale.",
        "parameters": TALE_SCHEMA,
    },
}


def tale(ending: Ending) -> str:
    """Tells a tale.

    Args:
        ending: How it ends.
    """
    return QUESTION


@dataclass(frozen=True, slots=True)
class Answer:
    """A text and its tokens, where the client tells of them."""

    text: str
    finish: str | None = None
    """Why it ended, in the client's own word."""
    prompt: int | None = None
    completion: int | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """What a tool round trip came to."""

    name: str
    arguments: Any
    answer: str
    """What the model said to the tool's result."""


class Driver(ABC):
    """One client in one dialect, closed after use. What it cannot do, it is not asked
    for."""

    route: ClassVar[str]
    """Where its requests go."""
    stop: ClassVar[str | None] = "stop"
    """Its word for an answer that is complete; None if it has none."""
    length: ClassVar[str] = "length"
    """Its word for one that was cut at the limit."""
    streams_usage: ClassVar[bool] = True
    """Whether it tells the tokens of a streamed answer."""
    refused: ClassVar[type[Exception]]
    """What it raises at a 400."""
    unknown: ClassVar[type[Exception]]
    """What it raises at a 404."""
    field: ClassVar[str] = "temperature"
    """What `refuse` is about."""

    def __init__(self, url: str, model: str) -> None:
        self.url = url
        self.model = model
        self.question = QUESTION

    async def close(self) -> None:  # noqa: B027
        """Close its connections, for one that keeps any."""

    @abstractmethod
    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        """The answer to its question."""

    @abstractmethod
    async def stream(self) -> Answer:
        """The same, streamed."""

    @abstractmethod
    async def leave(self) -> None:
        """Stream the answer to `ENDLESS`, and go away after the first piece."""

    async def refuse(self) -> None:
        """Ask for what the gateway refuses."""
        await self.chat(temperature=-1)

    async def call(self, *, streamed: bool) -> Called:
        """A tool round trip: a call that `tool_choice` makes, and an answer to what
        the tool said."""
        raise NotImplementedError

    async def structured(self) -> Mood:
        """An answer in that form."""
        raise NotImplementedError

    async def count(self) -> int:
        """Tokens of the prompt that `chat` sends, as the client counts them."""
        raise NotImplementedError
