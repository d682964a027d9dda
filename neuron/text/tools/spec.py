"""The tools of a request, and which of them must be called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that the model may call.

    Raises:
        ValueError: the name or the parameters are none; the message names the field.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON Schema of the arguments object; empty means that it may hold anything."""
    strict: bool = False
    """Whether every call's arguments must satisfy it, also where none need be made."""
    place: str = field(default="parameters", compare=False)
    """Of the parameters in the request."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name: {self.name!r} must be 1 to 128 letters, digits, '_' or '-'"
            )
        _check_parameters(self.parameters)

    @classmethod
    def parse(cls, tool: object, place: str) -> Self:
        """A tool from the request: `{"type": "function", "function": {…}}`.

        Args:
            place: where it stands, such as `tools[0]`, to be named in errors.

        Raises:
            ValueError: it is none; the message begins with the place.
        """
        outer = _object(tool, place)
        if outer.get("type", "function") != "function":
            raise ValueError(f"{place}.type: must be 'function', not {outer['type']!r}")
        place = f"{place}.function"
        function = _object(outer.get("function"), place)
        name, description = function.get("name"), function.get("description") or ""
        if not isinstance(name, str):
            raise ValueError(f"{place}.name: must be a string")
        if not isinstance(description, str):
            raise ValueError(f"{place}.description: must be a string")
        strict = function.get("strict")
        if not isinstance(strict, bool | None):
            raise ValueError(f"{place}.strict: must be true, false or null")
        parameters = function.get("parameters")
        if parameters is None:
            parameters = {}
        try:
            return cls(
                name, description, parameters, strict is True, f"{place}.parameters"
            )
        except ValueError as error:
            raise ValueError(f"{place}.{error}") from error

    @property
    def properties(self) -> Mapping[str, Any]:
        """Parameter name → its schema."""
        properties = self.parameters.get("properties", {})
        assert isinstance(properties, Mapping)
        return properties


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The one tool that must be called."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def _object(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: must be an object")
    return value


def _check_parameters(parameters: object) -> None:
    schema = _object(parameters, "parameters")
    if schema.get("type", "object") != "object":
        raise ValueError(
            f"parameters.type: must be 'object', not {schema['type']!r}: "
            "arguments are named"
        )
    for name, value in _object(
        schema.get("properties", {}), "parameters.properties"
    ).items():
        if not isinstance(value, Mapping | bool):
            raise ValueError(f"parameters.properties.{name}: must be a schema")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
        raise ValueError("parameters.required: must be an array of strings")
