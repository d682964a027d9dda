"""Reading a request's fields; what is wrong is named by its place."""

from collections.abc import Mapping
from typing import Any, TypeVar

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json

T = TypeVar("T")

_KINDS: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "an array",
}


def refused(place: str, why: str, code: str = "invalid_request_body") -> ApiError:
    """400, naming the place."""
    return ApiError(400, f"{place}: {why}", code=code, param=place)


def unsupported(place: str, why: str) -> ApiError:
    """400: known, and not to be had here."""
    return refused(place, why, code="unsupported_parameter")


def no_effect(place: str) -> str:
    """What a client is told in `X-Cortex-Warning`, where it may matter."""
    return f"{place}: has no effect here"


def expect(value: object, kind: type[T], place: str) -> T:
    """The value, if it is of this kind as JSON has it: true is no number, and an
    integer is one.

    Raises:
        ApiError: 400, it is not.
    """
    known: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if isinstance(value, known) and (kind is bool or not isinstance(value, bool)):
        return value  # type: ignore[return-value]
    raise refused(place, f"should be {_KINDS[kind]}")


def optional(fields: Mapping[str, Any], name: str, kind: type[T], at: str) -> T | None:
    """A field that may be absent or null; `at` is its object's place, "" at the top.

    Raises:
        ApiError: 400, it is of another kind.
    """
    value = fields.get(name)
    return None if value is None else expect(value, kind, join(at, name))


def required(fields: Mapping[str, Any], name: str, kind: type[T], at: str) -> T:
    """A field that must be there.

    Raises:
        ApiError: 400, it is not, or of another kind.
    """
    if (value := fields.get(name)) is None:
        raise refused(join(at, name), f"is required, and should be {_KINDS[kind]}")
    return expect(value, kind, join(at, name))


def objects(fields: Mapping[str, Any], name: str, at: str) -> list[tuple[str, Json]]:
    """An array's objects with their places; none where it is absent or null.

    Raises:
        ApiError: 400, it is no array of objects.
    """
    place = join(at, name)
    return [
        (f"{place}[{i}]", expect(each, dict, f"{place}[{i}]"))
        for i, each in enumerate(optional(fields, name, list, at) or [])
    ]


def page_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """How many of a list's entries are asked for.

    Raises:
        ApiError: 400, it is no such number.
    """
    if (given := query.get("limit")) is None:
        return default
    digits = given.isascii() and given.isdecimal() and len(given) <= len(str(most))
    if digits and 1 <= int(given) <= most:
        return int(given)
    raise refused("limit", f"should be from 1 to {most}")


def join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def renamed(place: str, names: Mapping[str, str]) -> str:
    """The place with what it begins with under its other name; the first that fits."""
    for name, other in names.items():
        if place == name or place.startswith((f"{name}.", f"{name}[")):
            return other + place.removeprefix(name)
    return place
