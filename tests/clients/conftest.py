"""A real gateway, neuron and worker, and the official OpenAI client for them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from neuron.models.bundled import bundled_root
from tests.support.loopback import only_loopback
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


def tell_roles(models: Path, model: str, *, opening: str = "") -> None:
    """Put the bundled model there under that name, with a chat template."""
    shutil.copytree(bundled_root() / MODEL, models / model)
    template = _TEMPLATE.replace("{{ opening }}", opening)
    (models / model / "chat_template.jinja").write_text(template, encoding="utf-8")


@pytest.fixture(autouse=True)
def _only_loopback() -> Iterator[None]:
    """A client that reaches for anything beyond this machine fails its test."""
    with only_loopback() as refused:
        yield
    assert refused == []


@pytest.fixture(scope="session")
def gateway() -> Iterator[Process]:
    with temporary_home() as home:
        tell_roles(home.models, AGENT, opening=" <think>")
        tell_roles(home.models, ASSISTANT)
        free = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
        with running_gateway(home, environ=free) as process:
            yield process


@pytest.fixture
def client(gateway: Process) -> Iterator[openai.OpenAI]:
    base_url = f"{gateway.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
        yield client
