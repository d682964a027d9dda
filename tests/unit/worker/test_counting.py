"""/v1/tokenize counts what the same chat request is charged."""

from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.pictures import noise, part_of
from tests.unit.worker.conftest import Start
from tests.unit.worker.test_images import VISION

TEMPLATE = """\
{%- for tool in tools or () %}<tools>{{ tool | tojson }}</tools>{% endfor %}
{%- for document in documents or () %}({{ document.text }}){% endfor %}
{%- for message in messages %}[{{ message.role }}:
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content or () %}
{%- if part.type == 'image' %}{% if message.role == 'user' %}[PICTURE]{% endif %}
{%- else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}
{%- for call in message.tool_calls or () %}<tool_call>
{"name": "{{ call.function.name }}", "arguments":
{{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}]
{%- endfor %}
{%- if add_generation_prompt %}[assistant:
{%- if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% else %}<think>
{% endif %}{% endif %}"""

NAMES = st.sampled_from(["look", "clock"])
WORDS = st.text(st.sampled_from("aé ☃\n<"), max_size=12)


def tool(name: str) -> dict[str, Any]:
    zone = {"type": "object", "properties": {"zone": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": zone}}


def call(name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"zone": "utc"}'}
    return {"id": f"call_{name}", "type": "function", "function": function}


PARTS = st.lists(
    WORDS.map(lambda text: {"type": "text", "text": text})
    | st.sampled_from([part_of(noise(16, 16)), part_of(noise(8, 24))]),
    min_size=1,
    max_size=2,
)
USER = st.builds(lambda said: {"role": "user", "content": said}, WORDS | PARTS)
TURNS = st.one_of(
    USER.map(lambda user: [user]),
    WORDS.map(lambda said: [{"role": "assistant", "content": said}]),
    st.builds(
        lambda name, result: [
            {"role": "assistant", "content": None, "tool_calls": [call(name)]},
            {"role": "tool", "tool_call_id": f"call_{name}", "content": result},
        ],
        NAMES,
        WORDS,
    ),
    WORDS.map(lambda said: [{"role": "developer", "content": said}]),
)
MESSAGES = st.builds(
    lambda turns, last: [*chain(*turns), last], st.lists(TURNS, max_size=2), USER
)
TOOLS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"tools": st.just([tool("look"), tool("clock")])},
        optional={
            "tool_choice": st.sampled_from(["auto", "none", "required", tool("look")])
        },
    ),
)
ENDS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"add_generation_prompt": st.booleans()}),
    st.just({"continue_final_message": True}),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "enable_thinking": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "high"]),
        "chat_template_kwargs": st.sampled_from([{"enable_thinking": False}, {"a": 1}]),
        "documents": st.just([{"text": "a document"}]),
        "response_format": st.just({"type": "json_object"}),
        "add_special_tokens": st.booleans(),
        "max_tokens": st.integers(1, 4),
    },
)


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["template", "plain"])
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    messages=MESSAGES, tools=TOOLS, end=ENDS, options=OPTIONS, cut=st.integers(-1, 40)
)
async def test_what_a_chat_is_charged_is_what_tokenize_counts(
    start: Start,
    template: str | None,
    messages: list[dict[str, Any]],
    tools: dict[str, Any],
    end: dict[str, Any],
    options: dict[str, Any],
    cut: int,
) -> None:
    """With every switch that changes a prompt, and those that might."""
    seen = template is not None
    body = {"messages": messages, **tools, **end, **options}
    pictures = any(isinstance(message["content"], list) for message in messages)
    if cut and not pictures:
        body["truncate_prompt_tokens"] = cut
    async with start("x", template=template, vision=VISION if seen else None) as worker:
        body = {"model": "scripted", **body}
        status, answer = await worker.post("/v1/chat/completions", body)
        counting, counted = await worker.post("/v1/tokenize", body)
        less = {**body, "return_tokens": False}
        _, without = await worker.post("/v1/tokenize", less)
    if status == 200:
        assert counted["count"] == answer["usage"]["prompt_tokens"]
        assert counted["tokens"] == list(worker.engine.seen[0].prompt_ids)
        assert without == {"count": counted["count"], "max_model_len": 256}
    else:
        assert (counting, counted) == (status, answer)


async def test_a_conversation_may_be_counted_that_is_too_long(start: Start) -> None:
    long = {"role": "user", "content": "Once upon a time " * 100}
    body = {"model": "scripted", "messages": [long], "return_tokens": False}
    async with start("x") as worker:
        status, counted = await worker.post("/v1/tokenize", body)
        refused, answer = await worker.post("/v1/chat/completions", body)
    assert (status, refused) == (200, 400)
    assert counted["count"] > counted["max_model_len"] == 256
    assert f"came to {counted['count']} tokens" in answer["error"]["message"]


async def test_what_a_chat_may_not_ask_for_is_not_counted_either(start: Start) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
    async with start("x") as worker:
        for field, value in (("functions", [{}]), ("return_tokens", 1)):
            status, answer = await worker.post("/v1/tokenize", {**body, field: value})
            assert (status, answer["error"]["param"]) == (400, field)
