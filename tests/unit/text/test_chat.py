"""Prompts from conversations."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from neuron.text.chat import ChatTemplate, ConversationError, TemplateError

USER = {"role": "user", "content": "Hi"}
TURNS = [{"role": "system", "content": "Be kind."}, USER]
CHATML = (
    "{% for m in messages %}\n"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('The system message must come first.') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
CALLING = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.content is string %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}"
    "({{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}"
    "{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "get", "parameters": {}}}


def calling(arguments: Any, call_id: str = "call_1") -> dict[str, Any]:
    function = {"name": "get", "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_a_model_without_a_template_continues_the_last_message() -> None:
    template = ChatTemplate(None)
    assert template.is_plain
    assert template.source is None
    assert template.render(TURNS) == "Be kind.\n\nHi"
    assert template.render([{"role": "assistant", "content": None}, USER]) == "Hi"


def test_a_model_without_a_template_cannot_be_told_of_tools() -> None:
    with pytest.raises(ConversationError, match="no chat template") as raised:
        ChatTemplate(None).render([USER], tools=[TOOL])
    assert raised.value.param == "tools"


def test_the_prompt_ends_where_the_answer_begins() -> None:
    template = ChatTemplate(CHATML)
    prompt = template.render(TURNS)
    assert prompt == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    turns = template.render(TURNS, add_generation_prompt=False)
    assert turns == prompt.removesuffix("<|im_start|>assistant\n")


def test_no_conversation_is_none() -> None:
    with pytest.raises(ConversationError, match="at least one message"):
        ChatTemplate(CHATML).render([])


def test_the_template_can_refuse_in_its_own_words() -> None:
    template = ChatTemplate("\n{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError) as raised:
        template.render(TURNS)
    assert str(raised.value) == "roles must alternate"
    assert raised.value.line == 2
    assert raised.value.param == "messages"


def test_a_template_that_fails_says_why_and_where() -> None:
    template = ChatTemplate("one\n\n{{ 1 + messages[0].content }}")
    with pytest.raises(TemplateError, match=r"TypeError: .*\(line 3 of the template"):
        template.render(TURNS)


def test_tools_and_documents_choose_their_templates() -> None:
    template = ChatTemplate(
        {
            "default": "plain",
            "tool_use": "tools {{ tools[0].function.name }}",
            "rag": "rag {{ documents[0].text }}",
        }
    )
    documents = {"documents": [{"title": "T", "text": "x"}]}
    assert template.render([USER]) == "plain"
    assert template.render([USER], tools=[]) == "plain"
    assert template.render([USER], tools=[TOOL]) == "tools get"
    assert template.render([USER], kwargs=documents) == "rag x"
    assert template.render([USER], tools=[TOOL], kwargs=documents) == "tools get"
    assert template.source == "tools {{ tools[0].function.name }}"


def test_without_a_default_the_templates_that_there_are_are_named() -> None:
    with pytest.raises(TemplateError, match="only rag, tool_use"):
        ChatTemplate({"tool_use": "t", "rag": "r"}).render([USER])


def test_templates_take_further_variables() -> None:
    template = ChatTemplate(
        "{{ enable_thinking }}{{ bos_token }}", {"bos_token": "<s>"}
    )
    assert template.render([USER], kwargs={"enable_thinking": False}) == "False<s>"
    assert template.reads("enable_thinking")
    assert not template.reads("tools")


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "bos_token", "range"]
)
def test_further_variables_overwrite_nothing(name: str) -> None:
    template = ChatTemplate(CHATML, {"bos_token": "<s>"})
    with pytest.raises(ConversationError, match="must not be set") as raised:
        template.render([USER], kwargs={name: "x"})
    assert raised.value.param == f"chat_template_kwargs.{name}"


def test_documents_are_objects() -> None:
    with pytest.raises(ConversationError, match="must be a list of objects"):
        ChatTemplate(CHATML).render([USER], kwargs={"documents": ["x"]})


def test_late_system_messages_move_to_the_front_only_where_they_must() -> None:
    late = [*TURNS, {"role": "system", "content": "In French."}, USER]
    merged = "[system]Be kind.\n\nIn French.[user]Hi[user]Hi"
    assert ChatTemplate(ALTERNATING).render(late) == merged
    assert ChatTemplate(CHATML).render(late).count("system") == 2


def test_late_system_messages_that_a_template_would_lose_move_too() -> None:
    losing = (
        "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
        "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
    )
    late = [USER, {"role": "system", "content": "In French."}]
    assert ChatTemplate(losing).render(late) == "[system]In French.[user]Hi"


def test_what_no_form_helps_against_is_refused_in_the_first_words() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system: ' ~ loop.index) }}{% endif %}{% endfor %}"
    )
    late = [USER, {"role": "system", "content": "In French."}]
    with pytest.raises(TemplateError, match="no system: 2"):
        template.render(late)


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    developer = [{"role": "developer", "content": "Be kind."}, USER]
    assert "system\nBe kind." in ChatTemplate(CHATML).render(developer)
    knowing = ChatTemplate("{# 'developer' #}" + CHATML)
    assert "developer\nBe kind." in knowing.render(developer)


def test_arguments_become_objects() -> None:
    rendered = ChatTemplate(CALLING).render([USER, calling('{"a": {"b": "é"}}')])
    assert rendered == '[user]Hi[assistant](get {"a": {"b": "é"}})'
    assert "(get {})" in ChatTemplate(CALLING).render([USER, calling("")])


def test_arguments_stay_strings_for_templates_that_write_them_as_they_are() -> None:
    source = CALLING.replace(" | tojson", "")
    rendered = ChatTemplate(source).render([USER, calling('{"a": 1}')])
    assert rendered == '[user]Hi[assistant](get {"a": 1})'


def test_arguments_that_are_no_object_are_named_where_they_break_the_template() -> None:
    pairs = "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}"
    source = CALLING.replace("{{ c.function.arguments | tojson }}", pairs)
    template = ChatTemplate(source)
    assert "(get a=1)" in template.render([USER, calling({"a": 1})])
    with pytest.raises(TemplateError, match="is no JSON object") as raised:
        template.render([USER, calling("{broken")])
    assert raised.value.param == "messages[1].tool_calls[0].function.arguments"
    assert '"{broken"' in ChatTemplate(CALLING).render([USER, calling("{broken")])


@pytest.mark.parametrize("test", ["c is none", "c == ''", "c is undefined"])
def test_calls_without_content_are_put_as_the_template_asks(test: str) -> None:
    source = (
        "{% for m in messages %}{% set c = m.content %}{% if m.tool_calls %}"
        f"{{% if {test} %}}"
        "({{ m.tool_calls[0].function.name }}"
        "{{ m.tool_calls[0].function.arguments | tojson }})"
        "{% endif %}{% endif %}{% endfor %}"
    )
    assert ChatTemplate(source).render([USER, calling("{}")]) == "(get{})"


def test_calls_that_a_template_cannot_show_are_no_silent_loss() -> None:
    with pytest.raises(TemplateError, match="shows no tool calls"):
        ChatTemplate(CHATML).render([USER, calling("{}")])


def test_ids_of_calls_are_shortened_only_where_the_template_insists() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{% if c.id | length != 9 %}{{ raise_exception('nine!') }}{% endif %}"
        "{{ c.id }} {{ c.function.name }}{{ c.function.arguments | tojson }}"
        "{% endfor %}{% if m.role == 'tool' %}={{ m.tool_call_id }}{% endif %}"
        "{% endfor %}"
    )
    result = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    rendered = ChatTemplate(source).render([USER, calling("{}"), result])
    call_id, _, answered = rendered.partition(" get{}=")
    assert call_id == answered
    assert len(call_id) == 9
    lenient = ChatTemplate(source.replace("!= 9", "< 1"))
    assert "call_1" in lenient.render([USER, calling("{}"), result])


def test_images_are_refused_by_name() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    content = [{"type": "text", "text": "What is it?"}, image]
    with pytest.raises(ConversationError, match="image_url is not supported") as raised:
        ChatTemplate(CHATML).render([{"role": "user", "content": content}])
    assert raised.value.param == "messages[0].content[1]"


def test_reasoning_goes_by_every_name() -> None:
    source = (
        "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}"
    )
    told = {"role": "assistant", "content": "4", "reasoning": "2+2"}
    assert ChatTemplate(source).render([USER, told]) == "2+22+2"


PARTS_ONLY = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
)
BOTH = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}"
)
FIRST_PART = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text + '' }}{% endfor %}"
)
SOURCES = [CHATML, PARTS_ONLY, BOTH, FIRST_PART]


@pytest.mark.parametrize("source", SOURCES)
def test_two_parts_reach_every_template(source: str) -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "refusal", "refusal": "Two"}]
    rendered = ChatTemplate(source).render([{"role": "user", "content": parts}])
    assert "One" in rendered
    assert "Two" in rendered
    assert "refusal" not in rendered


messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "tool"]),
            "content": st.text(min_size=1),
        }
    ),
    min_size=1,
    max_size=5,
)
compiled = {source: ChatTemplate(source) for source in SOURCES}


@given(source=st.sampled_from(SOURCES), messages=messages)
def test_a_string_and_a_part_of_text_are_the_same(
    source: str, messages: list[dict[str, str]]
) -> None:
    in_parts = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in messages
    ]
    template = compiled[source]
    rendered = template.render(messages)
    assert rendered == template.render(in_parts)
    assert all(message["content"] in rendered for message in messages)
