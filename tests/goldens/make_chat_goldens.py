"""Make the golden prompts of real chat templates with Hugging Face transformers.

    python -m venv ../goldens && ../goldens/bin/pip install transformers platformdirs
    ../goldens/bin/python -m tests.goldens.make_chat_goldens

Run from the root of the repository. transformers is not needed to run the tests. What
is kept of a prompt is its checksum, or, where it is short, all of it.
"""

import contextlib
import copy
import datetime
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Self

import transformers
from tokenizers import Tokenizer, models
from transformers.utils import chat_template_utils

from tests.goldens.chat_cases import (
    CASES,
    CORPUS_CASES,
    FAMILIES,
    GOLDENS,
    NOW,
    SPECIAL_TOKENS,
    TEMPLATES,
    Case,
    Json,
    digest,
    templates,
)

SHORT = 300
EDGE = 60


class _Clock(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(NOW.timestamp(), tz)


def render(tokenizer: Any, template: str, case: Case) -> str | None:
    """transformers' prompt; none where it refuses.

    Its tokenizer leaves out content that is null, which some templates cannot do
    without, and some take the arguments of calls only as strings. There the first form
    counts that its renderer shows a call in.
    """
    options = {"add_generation_prompt": True, **case.options, **case.kwargs}
    try:
        prompt: str = tokenizer.apply_chat_template(
            copy.deepcopy(list(case.messages)),
            chat_template=template,
            tokenize=False,
            **options,
        )
    except Exception:  # A template may raise anything.
        forms = _forms(case) if "tool_calls" in str(case.messages) else ()
        for messages in forms:
            with contextlib.suppress(Exception):
                rendered, _ = chat_template_utils.render_jinja_template(
                    [messages],
                    chat_template=template,
                    **tokenizer.special_tokens_map,
                    **options,
                )
                if "Zürich" in rendered[0] and "None" not in rendered[0]:
                    return str(rendered[0])
        return None
    return prompt


def _forms(case: Case) -> Iterator[list[Json]]:
    for content in ({}, {"content": None}, {"content": ""}):
        for messages in (case.messages, case.on_the_wire()):
            yield [
                {**message, **content}
                if content and message["content"] is None
                else {key: value for key, value in message.items() if value is not None}
                for message in messages
            ]


def kept(prompt: str | None) -> dict[str, Any]:
    """What a golden says about a prompt."""
    if prompt is None:
        return {"refused": True}
    if len(prompt) <= SHORT:
        return {"text": prompt}
    return {
        "sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "length": len(prompt),
        "start": prompt[:EDGE],
        "end": prompt[-EDGE:],
    }


def brief(prompt: str | None, case: Case) -> str:
    """The same in a few letters, for templates by the hundred."""
    if prompt is None:
        return "refused"
    if str(case.messages[-1]["content"]).strip() not in prompt:
        return "lost"
    if "{'city': 'Z" in prompt:
        return "python"
    return digest(prompt)


def main() -> None:
    """Write chat.json beside this file."""
    chat_template_utils.datetime = _Clock
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), **SPECIAL_TOKENS
    )
    sources = templates()
    goldens = {
        "transformers": transformers.__version__,
        "templates": f"{TEMPLATES.name} {TEMPLATES.version}",
        "families": {
            family: {
                name: kept(render(tokenizer, sources[file], case))
                for name, case in CASES.items()
            }
            for family, file in FAMILIES.items()
        },
        "corpus": {
            file: " ".join(
                brief(render(tokenizer, source, CASES[name]), CASES[name])
                for name in CORPUS_CASES
            )
            for file, source in sorted(sources.items())
        },
    }
    text = json.dumps(goldens, ensure_ascii=False, indent=1)
    GOLDENS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
