"""What every dialect is to the gateway: requests in, answers and errors out.

Nothing here or in a dialect does any I/O, but for `Translation.settle`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from neuron.protocol.errors import ApiError

Json = dict[str, Any]
"""A decoded JSON object."""
MALFORMED: Final = (KeyError, IndexError, TypeError, AttributeError, ValueError)
"""What reading something that is no answer of a neuron raises."""
NO_REASON: Final = "it does not say why it ended"
"""What an answer lacks that has no finish reason."""


def streamed() -> Json:
    """Fields that ask for a stream: its first chunk tells how long the prompt is."""
    usage = {"include_usage": True, "continuous_usage_stats": True}
    return {"stream": True, "stream_options": usage}


def counted(answer: Json) -> int:
    """Of a request that only counts tokens, how many there are.

    Raises:
        MALFORMED: the answer has no count.
    """
    count = answer["count"]
    if not isinstance(count, int):
        raise ValueError("its count is no number")
    return count


class StreamWriter(Protocol):
    """Words one streamed answer.

    Each method returns the bytes to send now, which may be none. After `fail` nothing
    more is asked of it; after `end` at most that, and what `end` said is not sent then.
    """

    def comment(self, text: str) -> bytes:
        """What keeps the client waiting and is no part of the answer; `text` is ASCII
        and tells why it takes so long. It may come before any chunk."""

    def chunk(self, chunk: Json) -> bytes:
        """More of the answer: one `chat.completion.chunk`, decoded.

        Raises:
            MALFORMED: it is none.
        """

    def end(self) -> bytes:
        """The neuron's stream came to its good end.

        Raises:
            ValueError: it lacks what a good end needs, such as a finish reason.
        """

    def fail(self, error: ApiError) -> bytes:
        """It did not: never a clean stop. It may be all there is of the answer."""


@dataclass(slots=True)
class Translation(ABC):
    """One request in the internal form, and how its answer is worded."""

    path: str
    """The neuron's route."""
    body: Json
    """The neuron's request. Its `model` is the client's own word, which the neuron
    echoes."""
    warnings: list[str] = field(default_factory=list)
    """What of the request has no effect here, in a few words each; they become the
    header `X-Cortex-Warning`."""

    @property
    def stream(self) -> bool:
        """Whether the neuron streams its answer; if so, the client's is streamed."""
        return self.body.get("stream") is True

    @abstractmethod
    def whole(self, answer: Json) -> Json:
        """The answer to a request that does not stream, from the neuron's.

        Raises:
            MALFORMED: the neuron's answer is none.
        """

    @abstractmethod
    def writer(self) -> StreamWriter:
        """For the answer to a request that streams; asked for once."""

    def place(self, param: str) -> str:
        """Where in the client's request that is which the neuron calls `param`."""
        return param

    def refused(self, error: ApiError) -> ApiError:
        """The neuron's refusal, naming places in the client's own request."""
        if error.param is None:
            return error
        place = self.place(error.param)
        said = error.message.removeprefix(error.param)
        message = error.message if said == error.message else place + said
        return replace(error, message=message, param=place)

    async def settle(self) -> None:  # noqa: B027
        """Do what is left to do before the client gets the last bytes of an answer that
        ended well. Called once, after `whole` or `end`."""


class Dialect(Protocol):
    """How a family of clients expects to be spoken to."""

    stream_type: str
    """Content type of a streamed answer."""

    def status(self, error: ApiError) -> int:
        """The HTTP status that says this error."""

    def error(self, error: ApiError, request_id: str) -> Json:
        """The body that says it."""

    def headers(self, request_id: str) -> dict[str, str]:
        """Headers that every answer has, `X-Request-Id` aside."""
