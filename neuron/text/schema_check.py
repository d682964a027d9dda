"""JSON schemas that a grammar cannot be made of, found before the compiler sees them.

The compiler refuses most of what it does not implement; what it would pass over in
silence, or accept and then never finish, is refused here, with its place.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

Schema = Mapping[str, Any]

MAX_DEPTH: Final = 96
"""Levels of nesting in a schema, values included."""

MAX_REGEX: Final = 16 * 1024
"""Longest regular expression, in characters: time grows with its square."""

_PASSES: Final = 20
"""How long a chain of references is looked through for one without end."""

_ONE: Final = (
    "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames",
    "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_SEVERAL: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = (
    "$defs", "definitions", "dependentSchemas", "patternProperties", "properties",
)  # fmt: skip
_OTHER_DRAFTS: Final = {
    "additionalItems": "use prefixItems, and items for the rest",
    "disallow": "it is not part of JSON Schema 2020-12",
    "divisibleBy": "use multipleOf",
    "extends": "use allOf",
}
_TYPES: Final = frozenset(
    {"array", "boolean", "integer", "null", "number", "object", "string"}
)


class SchemaProblem(Exception):
    """What is wrong at `place`, a JSON pointer such as `#/properties/a`."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


def check_schema(schema: Schema) -> None:
    """Refuse what would be ignored, and what can never be finished.

    Raises:
        SchemaProblem: with the place.
    """
    _check_depth(schema)
    for place, part in subschemas(schema):
        if isinstance(part, Mapping):
            _check_shape(place, part)
            _check_reference(place, part, schema)
            _check_keywords(place, part)
        elif not isinstance(part, bool):
            raise SchemaProblem(place, "a schema must be an object or a boolean")
    _Finiteness(schema).check()


def children(place: str, schema: Schema) -> Iterator[tuple[str, object]]:
    """What should be a schema right inside one, with the places."""
    for key in _ONE:
        if key in schema:
            yield f"{place}/{key}", schema[key]
    for key in _SEVERAL:
        if isinstance(entries := schema.get(key), list):
            yield from ((f"{place}/{key}/{i}", each) for i, each in enumerate(entries))
    for key in _NAMED:
        if isinstance(entries := schema.get(key), Mapping):
            for name, entry in entries.items():
                yield f"{place}/{key}/{_escaped(name)}", entry


def subschemas(schema: object, place: str = "#") -> Iterator[tuple[str, object]]:
    """The schema itself and all inside it, outer ones first."""
    yield place, schema
    if isinstance(schema, Mapping):
        for inner, part in children(place, schema):
            yield from subschemas(part, inner)


def pointed_at(root: Schema, pointer: object) -> object:
    """What a reference such as `#/$defs/a` means; None where there is no such thing."""
    value: object = root
    if pointer == "#":
        return value
    if not (isinstance(pointer, str) and pointer.startswith("#/")):
        return None
    for part in unquote(pointer).removeprefix("#/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def moved(schema: Schema, prefix: str) -> Schema:
    """A copy whose references begin with `prefix` instead of #."""
    copy = dict(schema)
    if isinstance(reference := copy.get("$ref"), str):
        copy["$ref"] = prefix + reference[1:]
    for key in _ONE:
        if isinstance(part := copy.get(key), Mapping):
            copy[key] = moved(part, prefix)
    for key in _SEVERAL:
        if isinstance(entries := copy.get(key), list):
            copy[key] = [_moved_entry(entry, prefix) for entry in entries]
    for key in _NAMED:
        if isinstance(entries := copy.get(key), Mapping):
            copy[key] = {n: _moved_entry(e, prefix) for n, e in entries.items()}
    return copy


def _moved_entry(entry: object, prefix: str) -> object:
    return moved(entry, prefix) if isinstance(entry, Mapping) else entry


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_depth(schema: object) -> None:
    level = [schema]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, Mapping | list)
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            return
    raise SchemaProblem("#", f"it is nested more than {MAX_DEPTH} levels deep")


def _check_shape(place: str, schema: Schema) -> None:
    for keys, wanted, name in ((_SEVERAL, list, "array"), (_NAMED, Mapping, "object")):
        for key in keys:
            if key in schema and not isinstance(schema[key], wanted):
                raise SchemaProblem(f"{place}/{key}", f"{key} must be an {name}")
    kind = schema.get("type", "")
    if not _are_texts(kind if isinstance(kind, list) else [kind]):
        raise SchemaProblem(
            f"{place}/type", "type must be a string, or an array of them"
        )
    if not _are_texts(schema.get("required", [])):
        raise SchemaProblem(f"{place}/required", "required must be an array of strings")


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _check_reference(place: str, schema: Schema, root: Schema) -> None:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return
    place = f"{place}/$ref"
    if not reference.startswith("#"):
        raise SchemaProblem(place, f"{reference} is in another document: use $defs")
    if pointed_at(root, reference) is None:
        raise SchemaProblem(place, f"there is no {reference}")


def _check_keywords(place: str, schema: Schema) -> None:
    for key, instead in _OTHER_DRAFTS.items():
        if key in schema:
            raise SchemaProblem(f"{place}/{key}", f"{key} is not supported: {instead}")
    if isinstance(schema.get("items"), list):
        raise SchemaProblem(
            f"{place}/items", "a list of schemas is not supported: use prefixItems"
        )
    if schema.get("nullable") is True:
        raise SchemaProblem(
            f"{place}/nullable",
            'nullable is not supported: add "null" to type, or use anyOf',
        )
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_REGEX:
        text = f"it has more than {MAX_REGEX} characters"
        raise SchemaProblem(f"{place}/pattern", text)
    least, known = schema.get("minProperties"), len(set(schema.get("required", ())))
    if isinstance(least, int) and least - known > 1:
        # Nothing keeps names that the schema does not list from coming twice.
        raise SchemaProblem(
            f"{place}/minProperties",
            f"minProperties {least} is not supported with {known} properties required: "
            "at most one more than those",
        )


class _Finiteness:
    """Whether some finite value can satisfy each part of a schema.

    A necessary condition only: what is called endless is, not the other way round.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._finite: set[int] = set()
        """Ids of the schemas known to have one."""

    def check(self) -> None:
        """Raises SchemaProblem at the root where no finite value satisfies it."""
        parts = [
            part for _, part in subschemas(self._root) if isinstance(part, Mapping)
        ]
        for _ in range(_PASSES):
            known = len(self._finite)
            # Inner ones first: so nearly all is known after one pass.
            for part in reversed(parts):
                if self._holds(part):
                    self._finite.add(id(part))
            if self._is_finite(self._root):
                return
            if len(self._finite) == known:
                raise SchemaProblem("#", "it refers to itself without end")

    def _is_finite(self, part: object) -> bool:
        # Malformed ones are the compiler's to refuse.
        return not isinstance(part, Mapping) or id(part) in self._finite

    def _holds(self, part: Schema) -> bool:
        target = pointed_at(self._root, part.get("$ref", ""))
        if not self._is_finite(target):
            return False
        if not all(map(self._is_finite, _entries(part, "allOf"))):
            return False
        for key in ("anyOf", "oneOf"):
            options = _entries(part, key)
            if options and not any(map(self._is_finite, options)):
                return False
        return self._some_type_holds(part)

    def _some_type_holds(self, part: Schema) -> bool:
        wanted = part.get("type", list(_TYPES))
        types = set(wanted) if isinstance(wanted, list) else {wanted}
        if types - {"array", "object"} or {"const", "enum"} & part.keys():
            return True
        return ("object" in types and self._object_holds(part)) or (
            "array" in types and self._array_holds(part)
        )

    def _object_holds(self, part: Schema) -> bool:
        properties = part.get("properties", {})
        rest = part.get("additionalProperties", True)
        names = _entries(part, "required")
        if not isinstance(properties, Mapping):
            return True
        return all(self._is_finite(properties.get(name, rest)) for name in names)

    def _array_holds(self, part: Schema) -> bool:
        least = part.get("minItems", 0)
        if not isinstance(least, int) or least < 1:
            return True
        first = _entries(part, "prefixItems")[:least]
        rest = [part.get("items", True)] if least > len(first) else []
        return all(map(self._is_finite, [*first, *rest]))


def _entries(part: Schema, key: str) -> list[Any]:
    value = part.get(key)
    return value if isinstance(value, list) else []
