"""Which sampling parameters hold: the request's, else the model's own, else neutral."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neuron.engines.base import SamplingParams
from neuron.text.tokenizer import read_json_object
from neuron.worker.schema import GenerationBody

log = logging.getLogger(__name__)

_FIELDS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Those that generation_config.json may set, under the names that requests use."""


def model_defaults(folder: Path) -> dict[str, Any]:
    """The sampling that the model's authors recommend, from generation_config.json.

    A value that no request could ask for either is left out, aloud.

    Raises:
        TokenizerError: the file is damaged.
    """
    path = folder / "generation_config.json"
    config = read_json_object(path)
    defaults = {}
    for name in _FIELDS:
        value = config.get(name)
        if value is None:
            continue
        try:
            GenerationBody.model_validate({"model": "", name: value})
        except ValueError:
            log.warning("%s: %s = %r is out of range and not used", path, name, value)
        else:
            defaults[name] = value
    return defaults


def resolve(body: GenerationBody, defaults: Mapping[str, Any]) -> SamplingParams:
    """Request over model over neutral."""
    chosen = dict(defaults)
    for name in (*_FIELDS, "frequency_penalty", "presence_penalty", "seed"):
        if (value := getattr(body, name)) is not None:
            chosen[name] = value
    if chosen.get("top_k") == -1:
        chosen["top_k"] = 0  # How some clients spell "all".
    return SamplingParams(logit_bias=body.logit_bias, **chosen)
