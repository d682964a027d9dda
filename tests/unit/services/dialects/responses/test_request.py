"""Requests: what becomes of each field, and what is refused by its name."""

from typing import Any

import pytest

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import MALFORMED, Json
from services.gateway.dialects.responses.request import Memory, count, needs, translate

HI = {"role": "user", "content": "Hi"}
TEXT = {"type": "input_text", "text": "Hi"}
LOOK: Json = {"type": "function", "name": "look", "parameters": {"type": "object"}}
SEARCH = {"type": "web_search"}


async def keep(response: Json, items: list[Json]) -> None:
    raise AssertionError("nothing is kept before the end")


def body(**fields: Any) -> Json:
    return {"model": "m", "input": "Hi", **fields}


def translated(**fields: Any) -> Json:
    return translate(body(**fields)).body


def messages(*items: Json, **fields: Any) -> list[Json]:
    found: list[Json] = translated(input=list(items), **fields)["messages"]
    return found


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        translate(body(**fields))
    assert caught.value.status == 400
    return caught.value


def test_the_least_request() -> None:
    assert translated() == {"model": "m", "messages": [HI]}


def test_streams_tell_what_is_used_from_the_first_chunk() -> None:
    assert translated(stream=True)["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }


def test_settings_and_their_names_here() -> None:
    found = translated(
        instructions="Be brief.",
        max_output_tokens=9,
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_object"}, "verbosity": "medium"},
        include=["message.output_text.logprobs"],
        top_logprobs=3,
        seed=5,
        store=False,
        truncation="disabled",
        service_tier="auto",
        max_tool_calls=2,
    )
    assert found == {
        "model": "m",
        "seed": 5,
        "max_completion_tokens": 9,
        "reasoning_effort": "high",
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 3,
        "messages": [{"role": "system", "content": "Be brief."}, HI],
    }


def test_what_the_assistant_did_in_a_row_is_one_message() -> None:
    found = messages(
        HI,
        {"type": "reasoning", "id": "rs_1", "summary": [{"text": "Hm"}]},
        {"type": "message", "role": "assistant", "content": "Wait"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "sql", "input": "S\n"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "data:,x", "detail": "original"},
        ]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Done"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
    )  # fmt: skip
    calls = [("c1", "look", "{}"), ("c2", "sql", '{"input":"S\\n"}')]
    image = {"url": "data:,x", "detail": "high"}
    assert found == [
        HI,
        {
            "role": "assistant",
            "reasoning_content": "Hm",
            "content": "Wait",
            "tool_calls": [
                {
                    "id": id_,
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                for id_, name, arguments in calls
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {
            "role": "tool",
            "tool_call_id": "c2",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": image},
            ],
        },
        {"role": "assistant", "content": "Done"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
    ]


def test_a_thought_after_a_text_begins_another_message() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"text": "Hm"}]}
    said = {"role": "assistant", "content": "A"}
    found = messages(HI, thought, thought, said, thought, said)
    assert found[1:] == [
        {"role": "assistant", "reasoning_content": "Hm\n\nHm", "content": "A"},
        {"role": "assistant", "reasoning_content": "Hm", "content": "A"},
    ]


def test_a_thought_alone_and_a_call_alone() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    found = messages(HI, {"type": "reasoning", "summary": []}, call)
    assert found[1]["content"] is None
    assert "reasoning_content" not in found[1]


# Tools.


def test_a_hosted_tool_beside_others_is_left_out_aloud() -> None:
    translation = translate(body(tools=[SEARCH, LOOK]))
    assert [t["function"]["name"] for t in translation.body["tools"]] == ["look"]
    assert translation.warnings == [
        "tools[0]: 'web_search' is one of OpenAI's own tools, which are not here"
    ]
    assert translation.shape.response["tools"] == [SEARCH, LOOK]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [SEARCH]}, "tools[0].type"),
        ({"tools": [LOOK, SEARCH], "tool_choice": SEARCH}, "tool_choice.type"),
        (
            {
                "tools": [LOOK, SEARCH],
                "tool_choice": {
                    "type": "allowed_tools", "mode": "auto", "tools": [SEARCH],
                },
            },
            "tool_choice.tools[0].type",
        ),
    ],
)  # fmt: skip
def test_a_hosted_tool_that_is_needed_is_refused(fields: Json, param: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.param) == ("unsupported_parameter", param)
    assert "'web_search' is one of OpenAI's own tools" in error.message


def test_namespaces_are_flattened() -> None:
    inner = [LOOK | {"description": "Looks."}, {"type": "custom", "name": "sql"}]
    space = {"type": "namespace", "name": "crm", "description": "Shop.", "tools": inner}
    found = translated(
        tools=[LOOK, space],
        tool_choice={"type": "custom", "name": "sql"},
        input=[HI, {
            "type": "function_call", "call_id": "c", "name": "look",
            "namespace": "crm", "arguments": "{}",
        }],
    )  # fmt: skip
    functions = [tool["function"] for tool in found["tools"]]
    assert [f["name"] for f in functions] == ["look", "crm__look", "crm__sql"]
    assert functions[1]["description"] == "Shop.\n\nLooks."
    assert "description" not in functions[2]
    assert found["tool_choice"]["function"]["name"] == "crm__sql"
    assert found["messages"][1]["tool_calls"][0]["function"]["name"] == "crm__look"


@pytest.mark.parametrize("regex", ["[a-z]+", "^[a-z]+$", "^[a-z]+"])
def test_a_regex_of_a_custom_tool_is_enforced(regex: str) -> None:
    format_ = {"type": "grammar", "syntax": "regex", "definition": regex}
    [tool] = translated(tools=[{"type": "custom", "name": "w", "format": format_}])[
        "tools"
    ]
    assert tool["function"]["strict"] is True
    text = tool["function"]["parameters"]["properties"]["input"]
    assert text == {"type": "string", "pattern": "^(?:[a-z]+)$"}


@pytest.mark.parametrize(
    ("regex", "bare"),
    [(r"a\$", r"a\$"), (r"a\\$", r"a\\"), ("$", ""), (r"\\\$", r"\\\$")],
)
def test_an_escaped_dollar_is_no_anchor(regex: str, bare: str) -> None:
    format_ = {"type": "grammar", "syntax": "regex", "definition": regex}
    [tool] = translated(tools=[{"type": "custom", "name": "w", "format": format_}])[
        "tools"
    ]
    text = tool["function"]["parameters"]["properties"]["input"]
    assert text["pattern"] == f"^(?:{bare})$"


def test_a_lark_grammar_is_enforced_where_it_is_regular() -> None:
    def tool(definition: str) -> tuple[Json, list[str]]:
        format_ = {"type": "grammar", "syntax": "lark", "definition": definition}
        custom = {"type": "custom", "name": "w", "format": format_}
        translation = translate(body(tools=[custom]))
        function = translation.body["tools"][0]["function"]
        return function["parameters"]["properties"]["input"], translation.warnings

    assert tool('start: "a"+') == ({"type": "string", "pattern": "^(?:(?:a)+)$"}, [])
    told, [warning] = tool('start: "a" start')
    assert told["description"] == 'By this Lark grammar:\nstart: "a" start'
    assert warning == "tools[0].format: told, but not enforced: start recurs"


ALLOWED = {
    "type": "allowed_tools",
    "mode": "required",
    "tools": [{"type": "function", "name": "look"}, SEARCH],
}


def test_allowed_tools() -> None:
    translation = translate(body(tools=[LOOK, SEARCH], tool_choice=ALLOWED))
    assert translation.body["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "look"}}],
        },
    }
    assert len(translation.warnings) == 2


# What is refused, and what is warned of.


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "w"}]}, "input[0].id"),
        ({"input": [{"id": "w"}]}, "input[0].id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].type",
        ),
        (
            {
                "input": [
                    {"type": "function_call_output", "call_id": "c", "output": [{}]}
                ]
            },
            "input[0].output[0].type",
        ),
        ({"input": [{"type": "custom_tool_call_output"}]}, "input[0].call_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"include": ["dreams"]}, "include[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"truncation": "left"}, "truncation"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"stream_options": {"include_obfuscation": True}},
         "stream_options.include_obfuscation"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [LOOK, LOOK]}, "tools[1].name"),
        ({"tools": [LOOK | {"name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom", "name": "c", "format": {"type": "x"}}]},
         "tools[0].format.type"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "look"}}, "tool_choice.name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: Json, param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert error.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["web_search_call.action.sources"]}, "include[0]"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"client_metadata": {}}, "client_metadata"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"store": True}, "store"),
        ({"reasoning": {"pace": "slow"}}, "reasoning.pace"),
        ({"text": {"voice": "alto"}}, "text.voice"),
        ({"tools": [LOOK | {"defer_loading": True}]}, "tools.defer_loading"),
        ({"tools": [LOOK | {"input_examples": [{}]}]}, "tools.input_examples"),
        ({"input": [HI | {"phase": "commentary"}, HI | {"phase": "x"}]}, "input.phase"),
        (
            {
                "input": [
                    HI | {"content": [TEXT | {"prompt_cache_breakpoint": {"a": 1}}]}
                ]
            },
            "input.content.prompt_cache_breakpoint",
        ),
        (
            {
                "input": [
                    HI,
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [TEXT | {"x": 1}],
                    },
                ]
            },
            "input.output.x",
        ),
    ],
)
def test_what_has_no_effect_is_told(fields: Json, warned: str) -> None:
    [warning] = translate(body(**fields)).warnings
    assert warning.startswith(f"{warned}: ")


# What is remembered.


def test_without_a_store_answers_say_so() -> None:
    assert translate(body()).shape.response["store"] is False
    assert "cortex.toml" in refusal(previous_response_id="resp_1").message


def test_what_is_needed_of_the_store() -> None:
    references = [{"type": "item_reference", "id": "rs_1"}, {"id": "msg_1"}]
    found = needs(body(previous_response_id="resp_1", input=[HI, *references]))
    assert (found.previous, found.items) == ("resp_1", ["rs_1", "msg_1"])


def test_a_stored_conversation_goes_on() -> None:
    said = {"type": "message", "role": "assistant", "content": "Yes", "id": "msg_1"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    memory = Memory(keep, [HI, said], {"fc_1": call})
    more = body(
        previous_response_id="resp_1",
        instructions="Now.",
        input=[{"type": "item_reference", "id": "fc_1"}],
    )
    translation = translate(more, memory)
    roles = [message["role"] for message in translation.body["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert translation.context == [HI, said, call]
    assert translation.shape.response["store"] is True
    assert translation.keep is keep
    assert translate(body(store=False), memory).keep is None


def test_no_item_is_referred_to_twice() -> None:
    reference = {"type": "item_reference", "id": "msg_1"}
    with pytest.raises(ApiError) as caught:
        translate(
            body(input=[reference, HI, reference]), Memory(keep, [], {"msg_1": HI})
        )
    assert (caught.value.status, caught.value.param) == (400, "input[2].id")


def test_a_response_that_is_not_stored() -> None:
    with pytest.raises(ApiError) as caught:
        translate(body(previous_response_id="resp_1"), Memory(keep))
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.status == 400


def test_a_count_is_of_the_very_same_request() -> None:
    fields = body(tools=[LOOK], instructions="Be brief.", stream=True)
    counted = count(fields)
    made = translate(fields).body
    del made["stream"], made["stream_options"]
    assert counted.body == made | {"return_tokens": False}
    assert counted.whole({"count": 5}) == {
        "object": "response.input_tokens",
        "input_tokens": 5,
    }
    with pytest.raises(MALFORMED):
        counted.whole({})


@pytest.mark.parametrize(
    ("param", "place"),
    [
        ("messages", "input"),
        ("messages[0].content", "instructions"),
        ("messages[1].content[1].image_url", "input[0].content[1].image_url"),
        ("messages[1].role", "input[0]"),
        ("messages[2]", "input[1]"),
        ("messages[2].reasoning_content", "input[1]"),
        ("messages[2].content", "input[2].content"),
        ("messages[2].tool_calls[1].function.arguments", "input[4].arguments"),
        ("messages[3].content[0]", "input[5].output[0]"),
        ("messages[9].content", "input[9].content"),
        ("tools[0].function.parameters.type", "tools[1].parameters.type"),
        ("tools[1].function.name", "tools[2].tools[0].name"),
        ("tools[2].function.parameters", "tools[3].format"),
        ("tools[2].parameters", "tools[3].format"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("reasoning_effort", "reasoning.effort"),
        ("temperature", "temperature"),
    ],
)
def test_the_neurons_refusals_name_the_clients_places(param: str, place: str) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": ""}
    space = {"type": "namespace", "name": "crm", "tools": [LOOK]}
    fields = body(
        instructions="Be brief.",
        input=[
            HI,
            {"type": "reasoning", "summary": [{"text": "Hm"}]},
            {"role": "assistant", "content": "Yes"},
            call,
            call,
            {"type": "function_call_output", "call_id": "c", "output": "1"},
        ],
        tools=[SEARCH, LOOK, space, {"type": "custom", "name": "sql"}],
    )
    error = ApiError(400, f"{param}: is wrong", code="invalid", param=param)
    for translation in (translate(fields), count(fields)):
        found = translation.refused(error)
        assert (found.param, found.message) == (place, f"{place}: is wrong")
    nameless = ApiError(503, "busy", code="busy")
    assert translate(fields).refused(nameless) is nameless
