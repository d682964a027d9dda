"""The operations of one loaded model; the daemon relays them."""

from typing import Final

from neuron.operation import Operation
from neuron.protocol import headers, routes
from neuron.worker.answers import (
    ChatAnswer,
    CompletionAnswer,
    DetokenizeAnswer,
    TokenizeAnswer,
)
from neuron.worker.schema import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    TokenizeChatBody,
)

_CHUNKS: Final = "chunks of the answer, where `stream` is true, and `[DONE]`"
_REFUSALS: Final = (404, 409, 422, 500, 502, 503)


OPERATIONS: Final = (
    Operation(
        "chat", "POST", routes.V1_CHAT_COMPLETIONS, "Continue a conversation",
        body=ChatBody, answer=ChatAnswer, stream=_CHUNKS,
        refusals=(*_REFUSALS, 429), headers=headers.INFERENCE,
    ),
    Operation(
        "completions", "POST", routes.V1_COMPLETIONS, "Continue a text",
        body=CompletionBody, answer=CompletionAnswer, stream=_CHUNKS,
        refusals=(*_REFUSALS, 429), headers=headers.INFERENCE,
    ),
    Operation(
        "tokenize", "POST", routes.V1_TOKENIZE, "Tokens of a prompt",
        body=TokenizeBody | TokenizeChatBody, answer=TokenizeAnswer,
        refusals=(*_REFUSALS, 429), headers=headers.INFERENCE,
    ),
    Operation(
        "detokenize", "POST", routes.V1_DETOKENIZE, "Text of tokens",
        body=DetokenizeBody, answer=DetokenizeAnswer,
        refusals=(*_REFUSALS, 429), headers=headers.INFERENCE,
    ),
)  # fmt: skip
