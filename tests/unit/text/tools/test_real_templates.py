"""What real models' chat templates write for a call is recognised, and read back."""

import json

import pytest

from neuron.text.chat import ChatTemplate, TemplateError
from neuron.text.output import OutputSyntax
from neuron.text.tools.recognition import recognise_tools
from neuron.text.tools.spec import ToolSpec
from tests.goldens.chat_cases import FAMILIES, SPECIAL_TOKENS, templates
from tests.support.wheels import UnavailableError
from tests.unit.text.tools.support import parse

pytestmark = pytest.mark.allow_blocking

SHARDS = 2
"""That run in parallel."""
STRIDE = 4
"""Half of the templates are enough: compiling one takes a tenth of a second."""
LEAST = 55
"""Templates of a shard that can be compared; the others have formats of their own,
refuse calls, or write them wrong."""

FORMATS = {
    "llama-3.1": "llama_json",
    "llama-3.2": "llama_json",
    "qwen2.5": "hermes",
    "qwen3": "hermes",
    "qwen3-coder": "qwen_xml",
    "mistral-v3": "mistral",
    "mistral-nemo": "mistral",
    "gemma-2": "generic",
    "phi-3": "generic",
    "phi-4": "generic",
    "phi-4-mini": "phi",
    "command-r-tools": "cohere",
    "command-r7b-tools": "cohere",
    "smollm2": "generic",
    "chatml": "generic",
    "hermes-tools": "hermes",
    "deepseek-v2.5": "deepseek_v3",
    "deepseek-v3.1": "deepseek_v31",
    "deepseek-r1-distill": "deepseek_v3",
    "kakaocorp-kanana-1.5-8b-instruct-2505": "json_function",
    "meetkai-functionary-medium-v3.1": "json_function",
    "nvidia-Llama-3.1-Nemotron-Nano-8B-v1": "nemotron",
    "ServiceNow-AI-Apriel-1.5-15b-Thinker": "apriel",
    "internlm-Intern-S1-mini": "internlm",
    "zai-org-GLM-4-9B-0414": "glm",
    "zai-org-GLM-Z1-32B-0414": "glm",
}
"""Family, or template, → format."""

ARGUMENTS = {"city": 'Zürich\n"x"', "days": 3, "options": {"a": [1, None, True]}}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "options": {"type": "object"},
    },
    "required": ["city"],
}
FUNCTION = {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA}
TOOLS = [ToolSpec("get_weather", "Weather.", SCHEMA)]


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    try:
        return templates()
    except UnavailableError as error:
        pytest.skip(f"real chat templates come from a package: {error}")


@pytest.mark.parametrize(("family", "name"), FORMATS.items())
def test_a_family_is_known_by_its_template(
    family: str, name: str, sources: dict[str, str]
) -> None:
    source = sources[FAMILIES.get(family, family)]
    found, reason = recognise_tools(source, {})
    assert found.name == name, reason
    assert reads(source) or family in FAMILIES


@pytest.mark.parametrize("shard", range(SHARDS))
def test_calls_that_templates_write_are_read_back(
    shard: int, sources: dict[str, str]
) -> None:
    read = [file for file in sorted(sources)[shard::STRIDE] if reads(sources[file])]
    assert len(read) > LEAST


def reads(source: str) -> bool:
    """Whether a call that the template writes comes back."""
    found, _ = recognise_tools(source, {})
    if found.name == "generic":
        return False
    return any(
        reply_calls(text, OutputSyntax(None, found)) == [("get_weather", ARGUMENTS)]
        for text in replies(source)
    )


def replies(source: str) -> list[str]:
    """The assistant's turn, without and with its header."""
    call = {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}
    user = {"role": "user", "content": "Hi"}
    assistant = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": call}],
    }
    tools = [{"type": "function", "function": FUNCTION}]
    try:
        template = ChatTemplate(source, SPECIAL_TOKENS)
        whole = template.render(
            [user, assistant], tools=tools, add_generation_prompt=False
        )
        starts = [
            template.render([user], tools=tools, add_generation_prompt=prompted)
            for prompted in (True, False)
        ]
    except TemplateError:
        return []
    return [whole[common(start, whole) :] for start in starts]


def common(one: str, other: str) -> int:
    """Length of what both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    shorter = min(len(one), len(other))
    return next((i for i, (a, b) in pairs if a != b), shorter)


def reply_calls(text: str, syntax: OutputSyntax) -> list[tuple[str, object]]:
    reply = parse([text], syntax, TOOLS, whole_calls=True)
    return [(name, json.loads(arguments)) for name, arguments in reply.calls]
