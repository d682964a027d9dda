"""Libraries, and programs that are configured as their library is."""

import json
import shlex
from collections.abc import Callable
from string import Template

from cortex_tui.connect.client import (
    PROVIDER,
    Client,
    Connection,
    Environment,
    Folders,
    SettingsFile,
)
from cortex_tui.connect.formats import JSON, YAML
from cortex_tui.connect.merge import Entries

_MESSAGES_PYTHON = '[{"role": "user", "content": "Hello"}]'
_MESSAGES_JS = '[{ role: "user", content: "Hello" }]'


def _filled(template: str) -> Callable[[Connection], str]:
    """With literals that Python and JavaScript read alike."""

    def fill(to: Connection) -> str:
        return Template(template).substitute(
            url=json.dumps(to.url),
            v1=json.dumps(to.v1),
            key=json.dumps(to.token),
            model=json.dumps(to.model),
            openai_model=json.dumps(f"openai/{to.model}"),
            provider=json.dumps(PROVIDER),
        )

    return fill


def _library(id_: str, name: str, line: str, program: str) -> Client:
    """`program` has the line in the place of `LINE`."""
    return Client(
        id_, name, program=_filled(program.replace("LINE", line)), line=_filled(line)
    )


_PYTHON = (
    _library(
        "openai-python",
        "OpenAI's SDK for Python",
        "OpenAI(base_url=$v1, api_key=$key)",
        f"""\
from openai import OpenAI

client = LINE
answer = client.chat.completions.create(
    model=$model, messages={_MESSAGES_PYTHON}
)
print(answer.choices[0].message.content)
""",
    ),
    _library(
        "anthropic-python",
        "Anthropic's SDK for Python",
        "Anthropic(base_url=$url, api_key=$key)",
        f"""\
from anthropic import Anthropic

client = LINE
answer = client.messages.create(
    model=$model, max_tokens=256, messages={_MESSAGES_PYTHON}
)
print(answer.content)
""",
    ),
    _library(
        "langchain",
        "LangChain",
        "ChatOpenAI(base_url=$v1, api_key=$key, model=$model)",
        """\
from langchain_openai import ChatOpenAI

model = LINE
print(model.invoke("Hello").content)
""",
    ),
    _library(
        "pydantic-ai",
        "pydantic-ai",
        "OpenAIChatModel($model, provider=OpenAIProvider(base_url=$v1, api_key=$key))",
        """\
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = LINE
print(Agent(model).run_sync("Hello").output)
""",
    ),
    _library(
        "litellm",
        "litellm",
        "litellm.completion(model=$openai_model, api_base=$v1, api_key=$key, "
        f"messages={_MESSAGES_PYTHON})",
        """\
import litellm

answer = LINE
print(answer.choices[0].message.content)
""",
    ),
)

_JAVASCRIPT = (
    _library(
        "openai-js",
        "OpenAI's SDK for JavaScript",
        "new OpenAI({ baseURL: $v1, apiKey: $key })",
        f"""\
import OpenAI from "openai";

const client = LINE;
const answer = await client.chat.completions.create({{
  model: $model,
  messages: {_MESSAGES_JS},
}});
console.log(answer.choices[0].message.content);
""",
    ),
    _library(
        "anthropic-js",
        "Anthropic's SDK for JavaScript",
        "new Anthropic({ baseURL: $url, apiKey: $key })",
        f"""\
import Anthropic from "@anthropic-ai/sdk";

const client = LINE;
const answer = await client.messages.create({{
  model: $model,
  max_tokens: 256,
  messages: {_MESSAGES_JS},
}});
console.log(answer.content);
""",
    ),
    _library(
        "ai-sdk",
        "Vercel AI SDK",
        "createOpenAICompatible({ name: $provider, baseURL: $v1, apiKey: $key, "
        "includeUsage: true, supportsStructuredOutputs: true })",
        """\
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

const provider = LINE;
const { text } = await generateText({ model: provider($model), prompt: "Hello" });
console.log(text);
""",
    ),
)


def _llm_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    model: dict[str, object] = {
        "model_id": to.model,
        "model_name": to.model,
        "api_base": to.v1,
        "supports_tools": to.tools,
        "supports_schema": True,
        "vision": to.images,
    }
    if to.key:
        model["api_key_name"] = PROVIDER
    folder = folders.of("LLM_USER_PATH", folders.config / "io.datasette.llm")
    models = SettingsFile(
        (folder / "extra-openai-models.yaml",), YAML, Entries("model_id", (model,))
    )
    if not to.key:
        return (models,)
    keys = SettingsFile((folder / "keys.json",), JSON, {PROVIDER: to.key})
    return (models, keys)


def _ollama(to: Connection) -> Environment:
    return {"OLLAMA_HOST": to.url} | ({"OLLAMA_API_KEY": to.key} if to.key else {})


def _curl(to: Connection) -> str:
    body = {"model": to.model, "messages": [{"role": "user", "content": "Hello"}]}
    words = ["curl", f"{to.v1}/chat/completions", "-H"]
    words += ["Content-Type: application/json"]
    words += ["-H", f"Authorization: Bearer {to.key}"] if to.key else []
    return shlex.join([*words, "-d", json.dumps(body, ensure_ascii=False)])


LIBRARIES = (
    *_PYTHON,
    *_JAVASCRIPT,
    Client(
        "llm",
        "llm",
        files=_llm_files,
        start=lambda to: f"llm -m {shlex.quote(to.model)} Hello",
    ),
    Client("ollama", "Programs that speak Ollama", environment=_ollama),
    Client("curl", "curl", program=_curl),
)
