"""A real gateway, neuron and worker, and the official OpenAI client for them."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from neuron.models.bundled import bundled_root
from tests.support.processes import Process, running_gateway, temporary_home

MODEL = "tinystories-15m"
AGENT = "agent"
"""The same model with a chat template that it has not learned, and that makes it
think until a budget ends it."""
ASSISTANT = "assistant"
"""The same without thinking, for clients that cannot set a budget."""
_TEMPLATE = """\
{%- for tool in tools or () %}{% if loop.first %}Call as <tool_call>: {% endif %}
{{- tool.function.name }}
{% endfor %}
{%- for message in messages %}{{ message.role }}: {{ message.content or '' }}
{%- for call in message.tool_calls or () %}<tool_call>
{"name": "{{ call.function.name }}",
"arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}
{%- if add_generation_prompt %}assistant:{{ opening }}
{% endif %}"""


@contextmanager
def serving(openings: Mapping[str, str], **generation: Any) -> Iterator[Process]:
    """A gateway with a model of each name, whose answers open so."""
    with temporary_home() as home:
        for model, opening in openings.items():
            folder = home.root / "data" / "cortex" / "models" / model
            shutil.copytree(bundled_root() / MODEL, folder)
            template = _TEMPLATE.replace("{{ opening }}", opening)
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
            settings = folder / "generation_config.json"
            settings.write_text(
                json.dumps(json.loads(settings.read_text()) | generation)
            )
        free = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
        with running_gateway(home, environ=free) as process:
            yield process


@pytest.fixture(scope="session")
def gateway() -> Iterator[Process]:
    with serving({AGENT: " <think>", ASSISTANT: ""}) as process:
        yield process


@pytest.fixture
def client(gateway: Process) -> Iterator[openai.OpenAI]:
    base_url = f"{gateway.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
        yield client
