"""Prompts from conversations."""

from pathlib import Path

import pytest

from neuron.text.chat import ChatTemplate, TemplateError

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
]
CHATML = (
    "{% for m in messages %}\n"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load(folder: Path, config: dict[str, object]) -> ChatTemplate:
    return ChatTemplate.load(folder, config, {"bos_token": "<s>"})


def test_a_model_without_a_template_continues_the_last_message(tmp_path: Path) -> None:
    template = load(tmp_path, {})
    assert template.is_plain
    assert template.render(TURNS) == "Be kind.\n\nHi"


def test_the_template_file_wins_over_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file {{ bos_token }}")
    assert load(tmp_path, {"chat_template": "config"}).render(TURNS) == "file <s>"


def test_of_several_templates_the_default_one_holds(tmp_path: Path) -> None:
    several = [
        {"name": "rag", "template": "rag"},
        {"name": "default", "template": CHATML},
    ]
    rendered = load(tmp_path, {"chat_template": several}).render(TURNS)
    assert rendered == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_template_can_refuse_in_its_own_words() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        template.render(TURNS)


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__ }}")
    with pytest.raises(TemplateError):
        template.render(TURNS)
    with pytest.raises(TemplateError):
        ChatTemplate("{% do messages.append(1) %}{{ messages.append(1) }}").render(
            TURNS
        )


def test_a_broken_template_is_said_at_load() -> None:
    with pytest.raises(TemplateError, match="broken"):
        ChatTemplate("{% if %}")


def test_what_templates_of_others_rely_on() -> None:
    source = (
        "{% if tools is not none %}tools{% endif %}"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content.strip() }}{% endgeneration %}{% endfor %}"
    )
    assert ChatTemplate(source).render(TURNS) == "Be kind."
    assert len(ChatTemplate("{{ strftime_now('%Y') }}").render(TURNS)) == 4


def test_json_in_templates_is_not_html() -> None:
    template = ChatTemplate("{{ {'a': '<é>'} | tojson }}")
    assert template.render(TURNS) == '{"a": "<é>"}'
