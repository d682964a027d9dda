"""Whatever is sent, by clients or by neurons, fails in a way that is foreseen."""

import contextlib
from typing import Any

from hypothesis import given, settings, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.client_request import Translate
from services.gateway.dialects.anthropic import translate_count, translate_messages
from services.gateway.dialects.base import MALFORMED, Json
from tests.unit.services.dialects.anthropic.test_request import HELLO

WORDS = [
    "model", "messages", "system", "max_tokens", "stream", "tools", "tool_choice",
    "thinking", "output_config", "metadata", "stop_sequences", "role", "content",
    "type", "text", "source", "data", "url", "id", "name", "input", "input_schema",
    "tool_use_id", "format", "schema", "effort", "signature", "citations", "choices",
    "delta", "message", "finish_reason", "usage", "tool_calls", "function", "arguments",
    "index", "reasoning_content", "prompt_tokens_details", "stop_reason",
]  # fmt: skip
VALUES = [
    "user", "assistant", "system", "text", "image", "document", "tool_use",
    "tool_result", "thinking", "base64", "enabled", "adaptive", "any", "tool",
    "json_schema", "stop", "length", "{}", "[", "", "cortex1:x",
]  # fmt: skip
values = st.recursive(
    st.sampled_from([*VALUES, None, True, 0, 1, -1, 1.5]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(WORDS), values, max_size=6)
blocks = st.lists(objects, max_size=3)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": blocks}
)


def status(translate: Translate, body: Json) -> int:
    """What comes of the request; any other error is the test's."""
    try:
        translate(body)
    except ApiError as error:
        return error.status
    return 200


@given(objects, st.lists(turns | objects, max_size=3) | values)
@settings(deadline=None)
def test_nonsense_of_clients_is_refused(more: Json, messages: Any) -> None:
    for body in (more, HELLO | more, HELLO | more | {"messages": messages}):
        for translate in (translate_messages, translate_count):
            assert status(translate, body) in (200, 400)


@given(st.lists(st.fixed_dictionaries({"choices": blocks}) | objects, max_size=4))
@settings(deadline=None)
def test_nonsense_of_neurons_is_no_answer(chunks: list[Json]) -> None:
    translation = translate_messages(HELLO)
    writer = translation.writer()
    for chunk in chunks:
        for read in (writer.chunk, translation.whole):
            with contextlib.suppress(*MALFORMED):
                read(chunk)
    with contextlib.suppress(ValueError):
        writer.end()
