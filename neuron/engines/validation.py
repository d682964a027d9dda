"""Requests that can never be served are refused before they are queued.

The same for every engine; only what a page of the KV cache holds differs.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

from neuron.engines.base import (
    EngineError,
    GenerationRequest,
    Image,
    LoadSpec,
    SamplingParams,
)
from neuron.models.image_sizing import ImageSizeError
from neuron.models.vision import VisionInfo


def check_request(
    request: GenerationRequest,
    vocab: int,
    spec: LoadSpec,
    page: int,
    vision: VisionInfo | None = None,
) -> None:
    """Whether the request makes sense and has room on an idle engine.

    Args:
        request: what is asked for.
        vocab: how many tokens the model has.
        spec: how it was loaded.
        page: tokens in a page of its KV cache.
        vision: how the engine takes images with that model; None where it does not.

    Raises:
        EngineError: it has not; `param` names the field.
    """
    if not request.prompt_ids:
        raise _invalid("prompt_ids", "must hold at least one token")
    least = 1 if request.prompt_logprobs is None else 0
    if request.max_new_tokens < least:
        text = f"{request.max_new_tokens} is less than {least}"
        raise _invalid("max_new_tokens", text)
    if request.min_new_tokens < 0:
        raise _invalid("min_new_tokens", f"{request.min_new_tokens} is less than 0")
    for name in ("top_logprobs", "prompt_logprobs"):
        top = getattr(request, name)
        if top is not None and top < 0:
            raise _invalid(name, f"{top} is less than 0")
    _check_ids("prompt_ids", request.prompt_ids, vocab)
    _check_ids("stop_ids", request.stop_ids, vocab)
    _check_ids("logit_bias", request.sampling.logit_bias, vocab)
    _check_sampling(request.sampling)
    if request.images:
        _check_images(request, vision)
    _check_room(request, spec, page)


def pages_for(tokens: int, page: int) -> int:
    """Pages of so many tokens each that hold `tokens`."""
    return -(-tokens // page)


def tokens_cached_at_most(request: GenerationRequest) -> int:
    """Of prompt and output; the last token generated is never looked back at."""
    return len(request.prompt_ids) + max(0, request.max_new_tokens - 1)


def _check_room(request: GenerationRequest, spec: LoadSpec, page: int) -> None:
    prompt, wanted = len(request.prompt_ids), request.max_new_tokens
    if prompt + wanted > spec.max_seq_len:
        raise _too_long(spec.max_seq_len, prompt, wanted)
    pages = pages_for(spec.cache_tokens, page)
    if pages_for(tokens_cached_at_most(request), page) > pages:
        raise _too_long(pages * page + 1, prompt, wanted)


def _too_long(limit: int, prompt: int, wanted: int) -> EngineError:
    return EngineError(
        f"this model's maximum context length is {limit} tokens, but {prompt + wanted} "
        f"are asked for: {prompt} in the prompt and {wanted} to generate",
        code="context_length_exceeded",
        param="prompt_ids" if prompt >= limit else "max_new_tokens",
    )


def _check_images(request: GenerationRequest, vision: VisionInfo | None) -> None:
    if vision is None:
        raise EngineError(
            "images: the model takes none as it is loaded here",
            code="unsupported",
            param="images",
        )
    if request.prompt_logprobs is not None:
        raise _invalid("prompt_logprobs", "not possible together with images")
    last = -1
    for number, image in enumerate(request.images):
        _check_image(image, f"images[{number}]", vision)
        first, end = image.positions[0], image.positions[-1]
        if first <= last or end >= len(request.prompt_ids):
            raise _invalid(f"images[{number}].positions", "are not in order")
        last = end
    if last == len(request.prompt_ids) - 1:
        # The last token is computed with those that are generated.
        raise _invalid(f"images[{number}].positions", "have no token behind them")


def _check_image(image: Image, param: str, vision: VisionInfo) -> None:
    height, width, _ = image.pixels.shape
    try:
        grid = vision.grid(width, height)
    except ImageSizeError as error:
        raise _invalid(param, str(error)) from error
    if (grid.width, grid.height) != (width, height):
        wanted = f"{grid.width} by {grid.height}"
        raise _invalid(f"{param}.pixels", f"{width} by {height} ought to be {wanted}")
    places = image.positions
    if len(places) != grid.tokens or any(
        later <= earlier for earlier, later in pairwise(places)
    ):
        raise _invalid(
            f"{param}.positions", f"must be {grid.tokens} places in ascending order"
        )


def _check_sampling(sampling: SamplingParams) -> None:
    finite = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        **{f"logit_bias[{i}]": v for i, v in sampling.logit_bias.items()},
    }
    for name, value in finite.items():
        if not math.isfinite(value):
            raise _invalid(name, f"{value} is not a finite number")
    if sampling.temperature < 0:
        raise _invalid("temperature", f"{sampling.temperature} is less than 0")
    if sampling.top_k < 0:
        raise _invalid("top_k", f"{sampling.top_k} is less than 0")
    if not 0 < sampling.top_p <= 1:
        raise _invalid("top_p", f"{sampling.top_p} is not above 0 and at most 1")
    if not 0 <= sampling.min_p <= 1:
        raise _invalid("min_p", f"{sampling.min_p} is not between 0 and 1")
    if sampling.repetition_penalty <= 0:
        raise _invalid(
            "repetition_penalty", f"{sampling.repetition_penalty} is not above 0"
        )


def _check_ids(param: str, ids: Iterable[int], vocab: int) -> None:
    for token in ids:
        if not 0 <= token < vocab:
            raise _invalid(param, f"token {token} is not between 0 and {vocab - 1}")


def _invalid(param: str, reason: str) -> EngineError:
    return EngineError(f"{param}: {reason}", code="invalid_value", param=param)
