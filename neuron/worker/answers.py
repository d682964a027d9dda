"""Shapes of the worker's answers, for the API's document."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    """Token counts; details are part of the counts, not on top of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: NotRequired[CompletionTokensDetails]


class Timings(TypedDict):
    """Seconds."""

    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None


class Score(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(Score):
    top_logprobs: list[Score]


class ChatLogprobs(TypedDict):
    content: list[ScoredToken]
    refusal: None


class PromptScore(TypedDict):
    """Of a token of the prompt; the rank only of the likeliest ones."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptScore] | None]
"""By token id, for each token of the prompt: itself, and the likeliest."""


class Function(TypedDict):
    name: str
    arguments: str


class AnswerToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: Function


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[AnswerToolCall]]


class ChatChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: NotRequired[list[int]]


class _Answer(TypedDict):
    id: str
    created: int
    model: str
    usage: Usage
    timings: Timings


class ChatAnswer(_Answer):
    """A whole answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_token_ids: NotRequired[list[int]]
    prompt_logprobs: NotRequired[PromptLogprobs]


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: NotRequired[list[int]]
    prompt_token_ids: NotRequired[list[int]]
    prompt_logprobs: NotRequired[PromptLogprobs]


class CompletionAnswer(_Answer):
    """A whole answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class TokenizeAnswer(TypedDict):
    """The prompt's tokens; `max_model_len` is the longest context, in tokens."""

    count: int
    max_model_len: int
    tokens: NotRequired[list[int]]
    token_strs: NotRequired[list[str]]


class DetokenizeAnswer(TypedDict):
    """The text of the tokens."""

    prompt: str
