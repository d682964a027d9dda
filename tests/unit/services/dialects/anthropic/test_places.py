"""What the neuron refuses is named as the client sent it."""

from typing import Any

import pytest

from neuron.protocol.errors import ApiError
from services.gateway.dialects.anthropic import translate_count, translate_messages
from services.gateway.dialects.base import Json

RESULT: Json = {"type": "tool_result", "tool_use_id": "t", "content": "x"}
BODY: Json = {
    "model": "m",
    "max_tokens": 9,
    "system": "be nice",
    "messages": [
        {"role": "user", "content": [RESULT, RESULT, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
}


@pytest.mark.parametrize("translate", [translate_messages, translate_count])
@pytest.mark.parametrize(
    ("param", "place"),
    [
        ("messages", "messages"),
        ("messages[0].content", "system"),
        ("messages[1].content[2]", "messages.0.content"),
        ("messages[3].content[0].image_url.url", "messages.0.content"),
        ("messages[4]", "messages.1"),
        ("messages[5].content", "messages.2.content"),
        ("messages[6].content", "messages.6.content"),
        ("tools[2].function.name", "tools.2.name"),
        ("tools[0].function.parameters.type", "tools.0.input_schema.type"),
        ("tool_choice", "tool_choice"),
        ("stop", "stop_sequences"),
        ("stop[3]", "stop_sequences.3"),
        ("stop_token_ids", "stop_token_ids"),
        ("response_format.json_schema.schema", "output_config.format.schema"),
        ("thinking_token_budget", "thinking.budget_tokens"),
        ("temperature", "temperature"),
    ],
)
def test_places_are_those_of_the_request(
    translate: Any, param: str, place: str
) -> None:
    error = ApiError(400, f"{param}: is not so", code="c", param=param)
    refused = translate(BODY).refused(error)
    assert (refused.message, refused.param) == (f"{place}: is not so", place)


def test_other_words_stay_as_they_are() -> None:
    error = ApiError(400, "too many stops", code="c", param="stop", retry_after=3)
    refused = translate_messages(BODY).refused(error)
    assert (refused.message, refused.param) == ("too many stops", "stop_sequences")
    assert refused.retry_after == 3
    unnamed = ApiError(503, "down", code="c")
    assert translate_messages(BODY).refused(unnamed) is unnamed
