"""Parameters that are known, and that nothing here honours."""

from typing import Any, Final, NoReturn

from neuron.protocol.errors import ApiError
from neuron.protocol.headers import PRIORITY

UNSUPPORTED: Final = "unsupported_parameter"

_ASKS_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
    "verbosity": (None, "medium"),
    "moderation": (None,),
    "prompt_cache_options": (None, {}, {"mode": "implicit"}),
    "prompt_cache_retention": (None, "in_memory", "in-memory"),
    "suffix": (None, ""),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1),
    "chat_template": (None,),
    "structural_tag": (None,),
    "guided_whitespace_pattern": (None,),
    "logits_processors": (None, []),
    "logprob_token_ids": (None,),
    "prompt_embeds": (None,),
    "cache_salt": (None,),
    "priority": (None, 0),
    "kv_transfer_params": (None,),
    "ec_transfer_params": (None,),
    "vllm_xargs": (None, {}),
    "mm_processor_kwargs": (None, {}),
    "media_io_kwargs": (None, {}),
    "repetition_detection": (None,),
    "watermarking": (None, False),
    "return_prompt_text": (None, False),
}
"""Parameter → the values that change nothing."""

_CHAT_ASKS_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "echo": (None, False),
    "token_healing": (None, False),
}

_INSTEAD: Final = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "priority": f"the header {PRIORITY} says it",
    "echo": "use it on /v1/completions",
    "token_healing": "use it on /v1/completions",
}


def refuse_unsupported(body: Any, *, chat: bool) -> None:
    """Refuse parameters that would be silently ignored otherwise.

    Raises:
        ApiError: 400 `unsupported_parameter`.
    """
    if not isinstance(body, dict):
        return
    known = _ASKS_NOTHING | (_CHAT_ASKS_NOTHING if chat else {})
    for name, neutral in known.items():
        if name in body and not _is_one_of(body[name], neutral):
            _refuse(name)
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_obfuscation"):
        _refuse("stream_options.include_obfuscation")
    # The best of as many as are wanted are all of them.
    if not chat and not _is_one_of(body.get("best_of"), (None, body.get("n") or 1)):
        _refuse("best_of")


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """As JSON has it, where true is not 1."""
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool)
        for each in neutral
    )


def _refuse(name: str) -> NoReturn:
    instead = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
    raise ApiError(
        400, f"{name}: not supported by this model's server{instead}",
        code=UNSUPPORTED, param=name,
    )  # fmt: skip
