"""Where a model's chat templates are, in Hugging Face's order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neuron.exl2.errors import FormatError
from neuron.exl2.json_file import read_json_object

DEFAULT: Final = "default"
_MAX_BYTES: Final = 1 << 20


def find_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Template sources by name; empty for a model without any.

    `chat_template.jinja` comes before `chat_template.json`, and that before
    `chat_template` of `tokenizer_config.json`; each of the latter two is one template
    or several with names. `additional_chat_templates/NAME.jinja` adds to them.

    Raises:
        FormatError: a file is damaged.
    """
    if (file := folder / "chat_template.jinja").is_file():
        found = {DEFAULT: _read(file)}
    elif (file := folder / "chat_template.json").is_file():
        found = _named(_json(file).get("chat_template"), file)
    else:
        where = folder / "tokenizer_config.json"
        found = _named(tokenizer_config.get("chat_template"), where)
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = _read(file)
    return found


def _named(templates: object, where: Path) -> dict[str, str]:
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
        raise FormatError(
            where, None, "chat_template must be a template, or several with names"
        )
    return dict(templates)


def _read(file: Path) -> str:
    try:
        if (size := file.stat().st_size) > _MAX_BYTES:
            raise FormatError(file, None, f"{size} bytes are over {_MAX_BYTES}")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError as error:
        raise FormatError(file, None, f"is not UTF-8: {error}") from error


def _json(file: Path) -> dict[str, object]:
    try:
        return read_json_object(file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> FormatError:
    return FormatError(file, None, f"cannot be read: {error.strerror}")
