"""The fields of a request, read with their places as Anthropic writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import expect, join, optional, required

T = TypeVar("T", str, bool, int, float, list[Any], Json)


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of a request; all methods raise ApiError 400 for what is malformed."""

    values: Json
    place: str = ""
    """Such as `messages.0.content.1`; empty for the body."""

    def at(self, name: str) -> str:
        return join(self.place, name)

    def may(self, name: str, kind: type[T]) -> T | None:
        """The field; None where it is absent or null."""
        return optional(self.values, name, kind, self.place)

    def need(self, name: str, kind: type[T]) -> T:
        return required(self.values, name, kind, self.place)

    def inner(self, name: str) -> "Fields | None":
        """The object of that name; None where it is absent or null."""
        value: Json | None = self.may(name, dict)
        return None if value is None else Fields(value, self.at(name))

    def each(self, name: str) -> Iterator["Fields"]:
        """The objects in the array of that name; none where it is absent or null."""
        for place, value in self._items(name):
            yield Fields(expect(value, dict, place), place)

    def texts(self, name: str) -> list[str]:
        """The strings in the array of that name; none where it is absent or null."""
        return [expect(value, str, place) for place, value in self._items(name)]

    @property
    def kind(self) -> str:
        """Its `type`."""
        return self.need("type", str)

    def _items(self, name: str) -> Iterator[tuple[str, Any]]:
        values: list[Any] = self.may(name, list) or []
        for index, value in enumerate(values):
            yield f"{self.at(name)}.{index}", value
