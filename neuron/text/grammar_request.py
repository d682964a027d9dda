"""Which grammar a request asks for, as OpenAI and vLLM spell it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuron.text.grammar_spec import GrammarError, GrammarSpec

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_GUIDED: Final = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_STRUCTURED: Final = frozenset({"json", "regex", "choice", "grammar", "json_object"})


@dataclass(frozen=True, slots=True)
class RequestedGrammar:
    """A grammar and the field of the request that its errors are to name."""

    field: str
    spec: GrammarSpec


def requested_grammar(body: Mapping[str, Any]) -> RequestedGrammar | None:
    """What `response_format`, `structured_outputs` or a `guided_…` field asks for.

    Raises:
        GrammarError: malformed, not supported, or more than one; `place` is the field.
    """
    found = [
        asked
        for asked in (
            _of_response_format(body.get("response_format")),
            _of_structured_outputs(body.get("structured_outputs")),
            *(_of_guided(field, body.get(field)) for field in _GUIDED),
        )
        if asked is not None
    ]
    if len(found) > 1:
        other = found[0].field
        raise GrammarError(found[1].field, f"it cannot be combined with {other}")
    return found[0] if found else None


def _of_response_format(value: object) -> RequestedGrammar | None:
    field = "response_format"
    if value is None:
        return None
    format_ = _object(field, value)
    match format_.get("type"):
        case "text":
            return None
        case "json_object":
            return RequestedGrammar(field, GrammarSpec("json_object"))
        case "json_schema":
            return _of_json_schema(f"{field}.json_schema", format_)
        case other:
            kinds = "text, json_object and json_schema"
            raise GrammarError(f"{field}.type", f"{other!r} is none of {kinds}")


def _of_json_schema(field: str, value: Mapping[str, Any]) -> RequestedGrammar:
    wrapper = _object(field, value.get("json_schema"))
    name = wrapper.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise GrammarError(
            f"{field}.name", "must be 1 to 64 letters, digits, dashes and underscores"
        )
    if not isinstance(wrapper.get("strict"), bool | None):
        raise GrammarError(f"{field}.strict", "must be true, false or null")
    field = f"{field}.schema"
    schema = _object(field, wrapper.get("schema"))
    return RequestedGrammar(field, GrammarSpec("json_schema", schema))


def _of_structured_outputs(value: object) -> RequestedGrammar | None:
    field = "structured_outputs"
    if value is None:
        return None
    asked = {key: v for key, v in _object(field, value).items() if v is not None}
    if unknown := sorted(asked.keys() - _STRUCTURED):
        raise GrammarError(f"{field}.{unknown[0]}", "it is not supported")
    if asked.get("json_object") is False:
        del asked["json_object"]
    if len(asked) != 1:
        names = ", ".join(sorted(_STRUCTURED))
        raise GrammarError(field, f"must hold exactly one of {names}")
    [(kind, source)] = asked.items()
    return _of_kind(f"{field}.{kind}", kind, source)


def _of_guided(field: str, value: object) -> RequestedGrammar | None:
    return None if value is None else _of_kind(field, _GUIDED[field], value)


def _of_kind(field: str, kind: str, source: object) -> RequestedGrammar:
    match kind:
        case "json_object":
            if source is not True:
                raise GrammarError(field, "must be true or false")
            spec = GrammarSpec("json_object")
        case "json":
            spec = GrammarSpec("json_schema", _object(field, _parsed(field, source)))
        case "choice":
            spec = GrammarSpec("lark", _choice(field, source))
        case _:
            if not isinstance(source, str):
                raise GrammarError(field, "must be a string")
            spec = GrammarSpec("regex" if kind == "regex" else "lark", source)
    return RequestedGrammar(field, spec)


def _parsed(field: str, source: object) -> object:
    """A schema may come as the text of one."""
    if not isinstance(source, str):
        return source
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise GrammarError(field, f"it is not JSON: {error}") from error


def _choice(field: str, source: object) -> str:
    if not (
        isinstance(source, list) and source and all(isinstance(s, str) for s in source)
    ):
        raise GrammarError(field, "must be a list of strings, and not an empty one")
    return "start: " + " | ".join(json.dumps(s, ensure_ascii=False) for s in source)


def _object(field: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise GrammarError(field, "must be an object")
    return value
