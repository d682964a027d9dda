"""Request bodies of the worker's OpenAI routes.

Unknown fields are tolerated, as clients send many. What is known and cannot be honoured
is refused by name (`neuron.worker.unsupported`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from neuron.protocol.errors import ApiError
from neuron.worker.messages import ChatMessage
from neuron.worker.unsupported import UNSUPPORTED

MAX_CHOICES: Final = 128
MAX_LOGPROBS: Final = 20

_GRAMMARS: Final = (
    "response_format", "structured_outputs", "guided_json", "guided_regex",
    "guided_choice", "guided_grammar",
)  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


def _refused(param: str, why: str, code: str = "invalid_request_body") -> ApiError:
    return ApiError(400, f"{param}: {why}", code=code, param=param)


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
    for token in value:
        if not (token.isascii() and token.isdecimal()):
            raise ValueError(f"{token[:20]!r} is no token id")
    return {int(token): bias for token, bias in value.items()}


class StreamOptions(_Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """With `include_usage`: what is used so far, in every chunk."""


class GenerationBody(_Body):
    """What chat and text completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Annotated[
        dict[int, Annotated[float, Field(ge=-100, le=100)]],
        BeforeValidator(_biases, json_schema_input_type=dict[str, float] | None),
    ] = Field(default_factory=dict)
    seed: int | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(_stops, json_schema_input_type=str | list[str] | None),
        Field(max_length=16),
    ] = Field(default_factory=list)
    include_stop_str_in_output: bool | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    allowed_token_ids: list[int] | None = Field(default=None, min_length=1)
    bad_words: list[Annotated[str, Field(min_length=1)]] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    """Begin the prompt as the model's texts begin, whatever the route's default."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    """Keep so many of the prompt's tokens; -1: as many as leave room for the answer."""
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Refuse what makes sense only with something else."""
        if self.stream_options is not None and not self.stream:
            raise _refused("stream_options", "allowed only where stream is true")
        if self.prompt_logprobs is not None and self.stream:
            raise _refused("prompt_logprobs", "not allowed where stream is true")
        limit = self.output_limit
        if limit is not None and (self.min_tokens or 0) > limit:
            raise _refused("min_tokens", f"more than the {limit} that may come at all")
        if self.truncate_prompt_tokens == 0:
            raise _refused("truncate_prompt_tokens", "0 would leave nothing")
        if self.truncation_side == "right" and self.truncate_prompt_tokens is None:
            raise _refused("truncation_side", "needs truncate_prompt_tokens")
        if self.spaces_between_special_tokens and self.skip_special_tokens is False:
            raise _refused(
                "spaces_between_special_tokens",
                "special tokens are spelt out without spaces between them",
                code=UNSUPPORTED,
            )

    @property
    def output_limit(self) -> int | None:
        """The one effective cap: the newer name wins."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        options = self.stream_options
        return self.include_usage and bool(options and options.continuous_usage_stats)

    @property
    def choices(self) -> int:
        """How many answers to give to each prompt."""
        return self.n or 1

    @property
    def grammar_fields(self) -> Mapping[str, Any]:
        """What asks for structured output, as it was sent."""
        return {name: getattr(self, name) for name in _GRAMMARS}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: (
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    ) = None
    thinking_token_budget: int | None = Field(default=None, ge=0)
    """Most tokens of a thought; then it is closed for the model."""
    include_reasoning: bool | None = None

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.top_logprobs and not self.logprobs:
            raise _refused("top_logprobs", "needs logprobs to be true")

    @property
    def scored(self) -> int | None:
        """How many alternatives to score per token; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def total_choices(self) -> int:
        return self.choices

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the template is told beyond the conversation and the tools."""
        variables = dict(self.chat_template_kwargs or {})
        for name in ("enable_thinking", "reasoning_effort", "documents"):
            if (value := getattr(self, name)) is not None:
                variables[name] = value
        if variables.get("reasoning_effort") == "none":
            variables.setdefault("enable_thinking", False)
        return variables


def _prompt(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if _are_ids(value) or all(isinstance(each, str) for each in value):
            return value
        if all(isinstance(each, list) and _are_ids(each) for each in value):
            return value
    raise ValueError("must be a text, a list of token ids, or a list of either")


def _are_ids(value: list[Any]) -> bool:
    return all(type(each) is int for each in value)


Prompt = str | list[int]


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    max_tokens: int | None = Field(default=None, ge=0)
    prompt: Annotated[
        str | list[int] | list[str] | list[list[int]], BeforeValidator(_prompt)
    ]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = None
    token_healing: bool | None = None
    """Take the prompt's last token back: the answer begins with tokens that spell it
    again, and tells only what goes beyond. Those count as tokens of the answer, and the
    one no more as one of the prompt."""

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.output_limit == 0 and not self.echo and self.prompt_logprobs is None:
            raise _refused(
                "max_tokens", "0 makes sense only with echo or prompt_logprobs"
            )
        if self.total_choices > MAX_CHOICES:
            raise _refused(
                "n",
                f"{len(self.prompts)} prompts with {self.choices} answers each are"
                f" more than {MAX_CHOICES}",
            )

    @property
    def prompts(self) -> list[Prompt]:
        prompt: Any = self.prompt
        alone = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if alone else [*prompt]

    @property
    def scored(self) -> int | None:
        return self.logprobs

    @property
    def total_choices(self) -> int:
        return len(self.prompts) * self.choices


class TokenizeBody(_Body):
    """POST /v1/tokenize with a text."""

    model: str
    prompt: str
    add_special_tokens: bool = True
    return_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatBody(ChatBody):
    """POST /v1/tokenize with a whole chat request: what that would be charged."""

    return_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeBody(_Body):
    """POST /v1/detokenize."""

    model: str
    tokens: list[int]
