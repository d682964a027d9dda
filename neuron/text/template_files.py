"""Where a model's chat templates are, in Hugging Face's order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neuron.text.compiled_template import TemplateError
from neuron.text.tokenizer import TokenizerError, read_json_object

DEFAULT: Final = "default"


def find_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Template sources by name; empty for a model without any.

    `chat_template.jinja` comes before `chat_template.json`, and that before
    `chat_template` of `tokenizer_config.json`; each of the latter two is one template
    or several with names. `additional_chat_templates/NAME.jinja` adds to them.

    Raises:
        TemplateError: a file is damaged.
    """
    if (file := folder / "chat_template.jinja").is_file():
        found = {DEFAULT: _read(file)}
    elif (file := folder / "chat_template.json").is_file():
        found = _named(_json(file).get("chat_template"), str(file))
    else:
        where = str(folder / "tokenizer_config.json")
        found = _named(tokenizer_config.get("chat_template"), where)
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = _read(file)
    return found


def _named(templates: object, where: str) -> dict[str, str]:
    """One template, `[{name, template}, …]`, or `{name: template, …}`."""
    if templates is None:
        return {}
    if isinstance(templates, str):
        return {DEFAULT: templates}
    if isinstance(templates, list) and all(isinstance(e, Mapping) for e in templates):
        templates = {entry.get("name"): entry.get("template") for entry in templates}
    if not isinstance(templates, Mapping) or not all(
        isinstance(name, str) and isinstance(source, str)
        for name, source in templates.items()
    ):
        raise TemplateError(
            f"{where}: chat_template must be a template, or several with names"
        )
    return dict(templates)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TemplateError(f"{file}: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except TokenizerError as error:
        raise TemplateError(str(error)) from error
