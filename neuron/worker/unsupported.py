"""Parameters that are known, and that nothing here honours."""

from typing import Any, Final

from neuron.protocol.errors import ApiError

UNSUPPORTED: Final = "unsupported_parameter"

_ASKS_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "store": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1),
    "allowed_token_ids": (None, []),
    "bad_words": (None, []),
    "prompt_logprobs": (None,),
    "truncate_prompt_tokens": (None,),
    "chat_template": (None,),
    "return_token_ids": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "structural_tag": (None,),
    "guided_whitespace_pattern": (None,),
    "logits_processors": (None, []),
}
"""Parameter → the values that change nothing."""

_INSTEAD: Final = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "prompt_logprobs": "use echo with logprobs on /v1/completions",
}


def refuse_unsupported(body: Any) -> None:
    """Refuse parameters that would be silently ignored otherwise.

    Raises:
        ApiError: 400 `unsupported_parameter`.
    """
    if not isinstance(body, dict):
        return
    for name, neutral in _ASKS_NOTHING.items():
        if name in body and body[name] not in neutral:
            instead = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise ApiError(
                400, f"{name}: not supported by this model's server{instead}",
                code=UNSUPPORTED, param=name,
            )  # fmt: skip
