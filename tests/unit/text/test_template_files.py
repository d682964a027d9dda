"""Where templates are found, and which one holds."""

import json
from pathlib import Path

import pytest

from neuron.exl2.errors import FormatError
from neuron.template_files import find_templates
from neuron.text.chat import ChatTemplate, TemplateError

CONFIG = {"chat_template": "config {{ bos_token }}"}


def test_a_model_may_have_none(tmp_path: Path) -> None:
    assert find_templates(tmp_path, {}) == {}
    assert find_templates(tmp_path, {"chat_template": None}) == {}


def test_the_order_of_the_files(tmp_path: Path) -> None:
    def rendered() -> str:
        template = ChatTemplate.load(tmp_path, CONFIG, {"bos_token": "<s>"})
        return template.render([{"role": "user", "content": "Hi"}])

    assert rendered() == "config <s>"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert rendered() == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert rendered() == "jinja"


def test_several_templates_have_names() -> None:
    several = {"default": "d", "tool_use": "t"}
    listed = [{"name": name, "template": text} for name, text in several.items()]
    for templates in (several, listed):
        assert find_templates(Path("none"), {"chat_template": templates}) == several


def test_further_templates_have_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("tools")
    (folder / "notes.txt").write_text("no template")
    assert find_templates(tmp_path, CONFIG) == {
        "default": CONFIG["chat_template"],
        "tool_use": "tools",
    }
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert find_templates(tmp_path, {}) == {"default": "jinja", "tool_use": "tools"}


@pytest.mark.parametrize(
    "templates", [1, [1], [{"name": "default"}], {"default": 1}, [{"template": "x"}]]
)
def test_what_is_no_template_is_said(templates: object, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: chat_template"):
        find_templates(tmp_path, {"chat_template": templates})
    (tmp_path / "chat_template.json").write_text(
        json.dumps({"chat_template": templates})
    )
    with pytest.raises(FormatError, match=r"chat_template\.json: chat_template"):
        find_templates(tmp_path, {})


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(FormatError, match=r"chat_template\.json"):
        find_templates(tmp_path, {})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TemplateError, match=r"chat_template\.jinja: is not UTF-8"):
        ChatTemplate.load(tmp_path, {}, {})
    with (tmp_path / "chat_template.jinja").open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(FormatError, match="1048577 bytes are over 1048576"):
        find_templates(tmp_path, {})


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'x' | nofilter }}", "{% include 'x' %}{", "{{ (" * 3000]
)
def test_a_broken_template_is_said_at_load(source: str, tmp_path: Path) -> None:
    if source.endswith("{"):
        source += "{"
    with pytest.raises(TemplateError, match="the chat template is broken"):
        ChatTemplate.load(tmp_path, {"chat_template": source}, {})


def test_a_template_as_long_as_a_book_is_none() -> None:
    with pytest.raises(TemplateError, match="it is longer than"):
        ChatTemplate("x" * (1 << 18) + "x")
