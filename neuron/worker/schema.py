"""Request bodies of the worker's OpenAI routes.

Unknown fields are tolerated, as clients send many. Known ones that nothing here
honours are refused by name unless their value asks for nothing.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from neuron.protocol.errors import ApiError

UNSUPPORTED: Final = "unsupported_parameter"

_ASKS_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}
"""Parameter → the values that change nothing."""


def refuse_unsupported(body: Any) -> None:
    """Refuse parameters that would be silently ignored otherwise.

    Raises:
        ApiError: 400 `unsupported_parameter`.
    """
    if not isinstance(body, dict):
        return
    for name, neutral in _ASKS_NOTHING.items():
        if name in body and body[name] not in neutral:
            raise ApiError(
                400, f"{name}: not supported by this model's server",
                code=UNSUPPORTED, param=name,
            )  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


def _text_of(content: Any) -> Any:
    """A message's content as one string: its text parts, a line each."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text"):
            raise PydanticCustomError(
                UNSUPPORTED, "parts of type '{kind}' are not supported", {"kind": kind}
            )
        text = part.get("text")
        if not isinstance(text, str):
            raise ValueError("a text part needs a string as its text")
        texts.append(text)
    return "\n".join(texts)


def _no_tool_role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise PydanticCustomError(UNSUPPORTED, "tool results are not supported")
    return "system" if role == "developer" else role


def _no_tool_calls(calls: Any) -> Any:
    if calls:
        raise PydanticCustomError(UNSUPPORTED, "tool calls are not supported")
    return None


class ChatMessage(_Body):
    """One turn; `developer` is what newer clients call `system`."""

    role: Annotated[
        Literal["system", "user", "assistant"], BeforeValidator(_no_tool_role)
    ]
    content: Annotated[str, BeforeValidator(_text_of)] = ""
    name: str | None = None
    tool_calls: Annotated[None, BeforeValidator(_no_tool_calls)] = None


def _stops(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _biases(value: Any) -> Any:
    """JSON spells token ids as strings."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and biases")
    try:
        return {int(token): bias for token, bias in value.items()}
    except ValueError as error:
        raise ValueError("every key must be a token id") from error


class StreamOptions(_Body):
    include_usage: bool | None = None


class GenerationBody(_Body):
    """What chat and text completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Annotated[
        dict[int, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_biases)
    ] = Field(default_factory=dict)
    seed: int | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(_stops),
        Field(max_length=16),
    ] = Field(default_factory=list)
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None

    @property
    def output_limit(self) -> int | None:
        """The one effective cap: the newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @property
    def scored(self) -> int | None:
        """How many alternatives to score per token; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _one_prompt(value: Any) -> Any:
    """A text or a list of token ids, alone or as the only one of a list."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise PydanticCustomError(UNSUPPORTED, "several prompts are not supported")
        return value[0]
    return value


Prompt = Annotated[str | list[int], BeforeValidator(_one_prompt)]


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Prompt
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @property
    def scored(self) -> int | None:
        return self.logprobs


class TokenizeBody(_Body):
    """POST /v1/tokenize: a text as a prompt, or a conversation."""

    model: str
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    add_special_tokens: bool = True
    return_token_strs: bool = False

    def model_post_init(self, context: Any, /) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(
                400, "prompt: give either it or messages",
                code="invalid_request_body", param="prompt",
            )  # fmt: skip


class DetokenizeBody(_Body):
    """POST /v1/detokenize."""

    model: str
    tokens: list[int]
