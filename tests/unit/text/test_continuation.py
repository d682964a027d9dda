"""Prompts that end inside the last message."""

import pytest

from neuron.text.chat import ChatTemplate, Message, TemplateError

TAGGED = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
TRIMMED = TAGGED.replace("m.content", "m.content | trim")
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}"
    "{% endfor %}</>{% endfor %}"
)


def continued(source: str, content: object) -> str:
    messages: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": content},
    ]
    return ChatTemplate(source).render(
        messages, add_generation_prompt=False, continue_final_message=True
    )


def test_it_ends_where_the_final_message_does() -> None:
    assert continued(TAGGED, "Once ") == "<user>Hi</><assistant>Once "
    assert continued(TAGGED, "") == "<user>Hi</><assistant>"
    assert continued(TAGGED, "</><user>") == "<user>Hi</><assistant></><user>"


def test_what_the_template_trims_is_not_continued_with() -> None:
    assert continued(TRIMMED, "Once ") == "<user>Hi</><assistant>Once"


def test_the_last_part_of_text_is_continued() -> None:
    parts = [{"type": "text", "text": "Once "}, {"type": "text", "text": "upon "}]
    assert continued(PARTS, parts) == "<user>Hi</><assistant>Once upon "
    assert continued(TAGGED, parts) == "<user>Hi</><assistant>Once \nupon "


@pytest.mark.parametrize("content", [None, []])
def test_nothing_cannot_be_continued(content: object) -> None:
    with pytest.raises(TemplateError, match="no content to continue") as raised:
        continued(PARTS, content)
    assert raised.value.param == "continue_final_message"


@pytest.mark.parametrize("change", ["m.content | upper", "m.content[:3]", "''"])
def test_a_template_that_changes_the_content_is_refused(change: str) -> None:
    with pytest.raises(TemplateError, match="does not keep its content"):
        continued(TAGGED.replace("m.content", change), "Once upon")


def test_one_answer_is_not_both_begun_and_continued() -> None:
    with pytest.raises(TemplateError, match="cannot both be true"):
        ChatTemplate(TAGGED).render(
            [{"role": "user", "content": "Hi"}], continue_final_message=True
        )
