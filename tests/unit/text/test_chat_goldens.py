"""Prompts of real models' templates are those of transformers, to the character."""

import functools
import hashlib
import json
from typing import Any

import pytest

from neuron.text import template_environment
from neuron.text.chat import ChatTemplate, TemplateError
from tests.goldens.chat_cases import (
    CASES,
    CORPUS_CASES,
    FAMILIES,
    GOLDENS,
    NOW,
    SPECIAL_TOKENS,
    Case,
    digest,
    templates,
)
from tests.support.wheels import UnavailableError

pytestmark = pytest.mark.allow_blocking

SHARDS = 4
"""Of the templates by the hundred, so that they run in parallel."""

NO_CHAT = {
    "Qwen-Qwen2-VL-2B",
    "Qwen-Qwen3-ASR-0.6B-hf",
    "Qwen-Qwen3-ASR-1.7B",
    "Qwen-Qwen3-Reranker-0.6B",
    "StanfordAIMI-GREEN-RadLlama2-7b",
    "ibm-granite-granite-guardian-3.2-8b-factuality-detection",
    "microsoft-VibeVoice-ASR-HF",
}
"""Templates for speech, ranking and the like, which do not show every message."""

GLM = "zai-org-"
"""Models whose templates drop calls as OpenAI's API has them, but show them as
`metadata`: to transformers they are lost."""
CALL = 'get_weather\n{"city": "Zürich"'


@functools.cache
def golden() -> dict[str, Any]:
    return dict(json.loads(GOLDENS.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    try:
        return templates()
    except UnavailableError as error:
        pytest.skip(f"real chat templates come from a package: {error}")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_environment, "_now", lambda: NOW)


def render(template: ChatTemplate, case: Case) -> str | None:
    try:
        return template.render(case.on_the_wire(), **case.options, kwargs=case.kwargs)
    except TemplateError:
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_rendered_as_by_transformers(
    family: str, sources: dict[str, str]
) -> None:
    template = ChatTemplate(sources[FAMILIES[family]], SPECIAL_TOKENS)
    for name, case in CASES.items():
        prompt = render(template, case)
        expected = golden()["families"][family][name]
        if expected.get("refused"):
            assert prompt is None, name
        elif "text" in expected:
            assert prompt == expected["text"], name
        else:
            assert prompt is not None, name
            assert prompt.startswith(expected["start"]), name
            assert prompt.endswith(expected["end"]), name
            assert len(prompt) == expected["length"], name
            digest_ = hashlib.sha256(prompt.encode()).hexdigest()
            assert digest_ == expected["sha256"], name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_string_and_a_part_of_text_are_the_same_to_a_family(
    family: str, sources: dict[str, str]
) -> None:
    template = ChatTemplate(sources[FAMILIES[family]], SPECIAL_TOKENS)
    case = CASES["turns"]
    in_parts = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in case.messages
    ]
    expected = render(template, case)
    assert render(template, Case(in_parts, case.options)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_late_system_message_is_neither_lost_nor_a_reason_to_fail(
    family: str, sources: dict[str, str]
) -> None:
    template = ChatTemplate(sources[FAMILIES[family]], SPECIAL_TOKENS)
    case = CASES["turns"]
    late = {"role": "system", "content": "In French, please."}
    prompt = render(template, Case([*case.messages[:-1], late, case.messages[-1]]))
    if render(template, case) is not None:
        assert prompt is not None
        assert late["content"] in prompt


@pytest.mark.parametrize("shard", range(SHARDS))
def test_hundreds_of_templates_are_rendered_as_by_transformers(
    shard: int, sources: dict[str, str]
) -> None:
    compared = 0
    for file in sorted(sources)[shard::SHARDS]:
        expected = golden()["corpus"][file].split()
        try:
            template = ChatTemplate(sources[file], SPECIAL_TOKENS)
        except TemplateError:
            assert set(expected) == {"refused"}, file
            continue
        for name, wanted in zip(CORPUS_CASES, expected, strict=True):
            compared += check(template, name, wanted, file)
    assert compared > 700


def check(template: ChatTemplate, name: str, wanted: str, file: str) -> bool:
    """Whether there was anything to compare with."""
    case = CASES[name]
    prompt = render(template, case)
    said = str(case.messages[-1]["content"]).strip()
    if wanted == "refused":
        # Ours may be a form that the template takes; then nothing is lost in it.
        assert prompt is None or said in prompt, (file, name)
    elif wanted == "lost":
        # Handed a string, the template looks for parts, or it is not for chats.
        assert prompt is None or said in prompt or file in NO_CHAT, (file, name)
    elif wanted == "python":
        assert prompt is not None, (file, name)
        assert "{'city': 'Z" not in prompt, (file, name)
        assert '{"city": "Zürich"' in prompt, (file, name)
    elif file.startswith(GLM) and prompt and f"<|assistant|>{CALL}" in prompt:
        return False
    else:
        assert prompt is not None, (file, name)
        assert digest(prompt) == wanted, (file, name)
        return True
    return False
