"""The fields of a request, read with their places: what is wrong is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json

T = TypeVar("T", str, bool, int, float, list[Any], Json)

_KINDS: Final[dict[type, str]] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
    dict: "an object",
}


def invalid(place: str, why: str) -> ApiError:
    return ApiError(400, f"{place}: {why}", code="invalid_request_body", param=place)


def unsupported(place: str, why: str) -> ApiError:
    """For what Anthropic's API has and this one has not."""
    return ApiError(400, f"{place}: {why}", code="unsupported_parameter", param=place)


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of a request; all methods raise ApiError 400 for what is malformed."""

    values: Json
    place: str = ""
    """Such as `messages.0.content.1`, as Anthropic writes it; empty for the body."""

    def at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def may(self, name: str, kind: type[T]) -> T | None:
        """The field; None where it is absent or null."""
        value: Any = self.values.get(name)
        if value is None or type(value) is kind or (kind, type(value)) == (float, int):
            found: T | None = value
            return found
        raise invalid(self.at(name), f"must be {_KINDS[kind]}")

    def need(self, name: str, kind: type[T]) -> T:
        if (value := self.may(name, kind)) is None:
            raise invalid(self.at(name), f"is required, and must be {_KINDS[kind]}")
        return value

    def inner(self, name: str) -> "Fields | None":
        """The object of that name; None where it is absent or null."""
        value: Json | None = self.may(name, dict)
        return None if value is None else Fields(value, self.at(name))

    def each(self, name: str) -> Iterator["Fields"]:
        """The objects in the array of that name; none where it is absent or null."""
        values: list[Any] = self.may(name, list) or []
        for index, value in enumerate(values):
            place = f"{self.at(name)}.{index}"
            if not isinstance(value, dict):
                raise invalid(place, "must be an object")
            yield Fields(value, place)

    def texts(self, name: str) -> list[str]:
        """The strings in the array of that name; none where it is absent or null."""
        values: list[Any] = self.may(name, list) or []
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise invalid(f"{self.at(name)}.{index}", "must be a string")
        return values

    @property
    def kind(self) -> str:
        """Its `type`."""
        return self.need("type", str)
