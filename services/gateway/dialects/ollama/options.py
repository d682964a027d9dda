"""`options`: sampling under Ollama's names, and what is set elsewhere here."""

from dataclasses import dataclass
from typing import Any, Final

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import (
    expect,
    no_effect,
    optional,
    refused,
    unsupported,
)


@dataclass(frozen=True, slots=True)
class _Range:
    """What the neuron calls it, and what it takes."""

    name: str
    least: float
    most: float
    above: bool = False
    """`least` itself is too little."""

    def check(self, value: Any, place: str) -> float:
        number = expect(value, float, place)
        if self.least <= number <= self.most and not (
            self.above and number == self.least
        ):
            return number
        words = "above" if self.above else "at least"
        raise refused(
            place, f"should be {words} {self.least:g} and at most {self.most:g}"
        )


_RANGES: Final = {
    "temperature": _Range("temperature", 0, 2),
    "top_p": _Range("top_p", 0, 1, above=True),
    "min_p": _Range("min_p", 0, 1),
    "repeat_penalty": _Range("repetition_penalty", 0.01, 10),
    "frequency_penalty": _Range("frequency_penalty", -2, 2),
    "presence_penalty": _Range("presence_penalty", -2, 2),
}
_WHOLE: Final = ("num_predict", "seed", "top_k")
_LARGE: Final = 2**63
_OTHER_SAMPLERS: Final = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}
"""Samplers that there are not here → the value that switches them off."""
_WITHOUT_EFFECT: Final = {
    "num_ctx": "the context is as long as the model was loaded with",
    "repeat_last_n": "repetition is looked for in the whole context",
}


def options_of(body: Json, warnings: list[str]) -> Json:
    """The neuron's fields for a request's `options`; what of them has no effect goes to
    `warnings`.

    Raises:
        ApiError: 400, one is out of range, or asks for what there is not.
    """
    fields: Json = {}
    for name, value in (optional(body, "options", dict, "") or {}).items():
        if value is None:
            continue
        place = f"options.{name}"
        if name in _RANGES:
            fields[_RANGES[name].name] = _RANGES[name].check(value, place)
        elif name in _WHOLE:
            fields |= _whole(name, value, place)
        elif name == "stop":
            fields |= _stop(value, place)
        elif name in _OTHER_SAMPLERS:
            if value != _OTHER_SAMPLERS[name]:
                raise unsupported(place, "there is no such sampler here")
        elif (name, value) != ("repeat_last_n", -1):
            why = _WITHOUT_EFFECT.get(name)
            warnings.append(f"{place}: {why}" if why else no_effect(place))
    return fields


def _whole(name: str, value: Any, place: str) -> Json:
    """Of these each has numbers that say as much as nothing."""
    number = expect(value, float, place)
    if not (abs(number) < _LARGE and float(number).is_integer()):
        raise refused(place, "should be an integer")
    match name:
        case "num_predict":
            return {"max_tokens": int(number)} if number > 0 else {}
        case "top_k":
            return {"top_k": int(max(number, 0))}
        case _:
            return {"seed": int(number)} if number >= 0 else {}


def _stop(value: Any, place: str) -> Json:
    stops = [value] if isinstance(value, str) else expect(value, list, place)
    for index, stop in enumerate(stops):
        if not expect(stop, str, f"{place}[{index}]"):
            raise refused(f"{place}[{index}]", "should not be empty")
    return {"stop": stops} if stops else {}
