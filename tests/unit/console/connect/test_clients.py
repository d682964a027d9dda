"""What each client is told, read as the client would read it."""

import ast
import json
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cortex_tui.connect.agents import AGENTS
from cortex_tui.connect.client import (
    PLACEHOLDER,
    Client,
    Connection,
    Folders,
    SettingsFile,
)
from cortex_tui.connect.clients import CLIENTS, find
from cortex_tui.connect.command import configuration, listing

PLAIN = Connection("http://127.0.0.1:31313", "small")
FULL = Connection(
    "http://[fd00::1]:8080",
    'org/it\'s a "model" #1: $x',
    "ck-abcdefgh-0123456789",
    65536,
    frozenset({"chat", "tools", "vision"}),
)
CONNECTIONS = pytest.mark.parametrize("to", [PLAIN, FULL], ids=["plain", "full"])


def get(id_: str) -> Client:
    client = find(id_)
    assert client is not None
    return client


def files(id_: str, to: Connection) -> dict[str, Any]:
    """Name → content of a client's files, read by other parsers than ours."""
    client = get(id_)
    assert client.files is not None
    home = Path("/nowhere")
    found = client.files(to, Folders(home))
    return {str(file.path.relative_to(home)): _read(file) for file in found}


def _read(file: SettingsFile) -> Any:
    match file.path.suffix:
        case ".json":
            return json.loads(file.text)
        case ".toml":
            return tomllib.loads(file.text)
        case _:
            return YAML(typ="safe", pure=True).load(file.text)


def exported(script: str) -> dict[str, str]:
    """What a shell has in its environment after the script."""
    command = ["bash", "-euc", script + "\nenv -0"]
    environment = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True
    ).stdout.decode()
    variables = dict(line.split("=", 1) for line in environment.split("\0") if line)
    return {
        k: v for k, v in variables.items() if k not in ("PATH", "PWD", "SHLVL", "_")
    }


def environment(id_: str, to: Connection) -> dict[str, str]:
    return exported(configuration(get(id_), to, Folders(Path("/nowhere"))))


def test_ids_differ_and_have_a_line_each() -> None:
    ids = [client.id for client in CLIENTS]
    assert len(set(ids)) == len(ids)
    assert [line.split()[0] for line in listing().splitlines()] == ids


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.id)
@CONNECTIONS
def test_everything_needed_is_told(client: Client, to: Connection) -> None:
    text = configuration(client, to, Folders(Path("/nowhere")))
    assert to.url in text
    if client.id not in ("ollama", "curl"):
        words = (to.model, json.dumps(to.model)[1:-1], shlex.quote(to.model)[1:-1])
        assert any(word in text for word in words)
    if to.key:
        assert to.key in text
    assert "\n" not in client.one_line(to, Folders(Path("/nowhere")))
    assert to.url in client.one_line(to, Folders(Path("/nowhere")))


@CONNECTIONS
def test_claude_code(to: Connection) -> None:
    variables = environment("claude-code", to)
    assert variables["ANTHROPIC_BASE_URL"] == to.url
    assert variables["ANTHROPIC_AUTH_TOKEN"] == to.token
    models = {v for k, v in variables.items() if k.endswith("_MODEL")}
    assert models == {to.model}
    assert files("claude-code", to) == {".claude/settings.json": {"env": variables}}


@CONNECTIONS
def test_codex(to: Connection) -> None:
    settings = files("codex", to)[".codex/config.toml"]
    provider = settings["model_providers"][settings["model_provider"]]
    assert settings["model"] == to.model
    assert settings.get("model_context_window") == to.context
    assert provider["base_url"] == to.v1
    assert provider["wire_api"] == "responses"
    variables = get("codex").beside
    assert variables is not None
    # Codex refuses to start without the variable that a provider names.
    assert variables(to).get(provider.get("env_key")) == to.key


@CONNECTIONS
def test_zed(to: Connection) -> None:
    settings = files("zed", to)[".config/zed/settings.json"]
    default = settings["agent"]["default_model"]
    provider = settings["language_models"]["openai_compatible"][default["provider"]]
    assert provider["api_url"] == to.v1
    (model,) = provider["available_models"]
    assert model["name"] == default["model"] == to.model
    assert model["max_tokens"] == (to.context or 32768)
    assert model["capabilities"]["images"] is to.images
    beside = get("zed").beside
    assert beside is not None
    # Zed makes the variable's name from the provider's.
    assert beside(to) == {f"{default['provider'].upper()}_API_KEY": to.token}


@CONNECTIONS
def test_aider(to: Connection) -> None:
    model = f"openai/{to.model}"
    assert environment("aider", to) == {
        "OPENAI_API_BASE": to.v1, "OPENAI_API_KEY": to.token, "AIDER_MODEL": model,
    }  # fmt: skip
    written = files("aider", to)
    assert written.pop(".aider.conf.yml") == {
        "openai-api-base": to.v1, "openai-api-key": to.token, "model": model,
    }  # fmt: skip
    for about in written.values():
        assert about[model]["max_input_tokens"] == to.context
        assert about[model]["litellm_provider"] == "openai"
    assert bool(written) is bool(to.context)


@CONNECTIONS
def test_opencode(to: Connection) -> None:
    settings = files("opencode", to)[".config/opencode/opencode.jsonc"]
    name, _, model = settings["model"].partition("/")
    assert model == to.model
    assert settings["small_model"] == settings["model"]
    provider = settings["provider"][name]
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"] == {"baseURL": to.v1, "apiKey": to.token}
    limit = provider["models"][model].get("limit")
    assert (limit or {}).get("context") == to.context


@CONNECTIONS
def test_continue(to: Connection) -> None:
    settings = files("continue", to)[".continue/config.yaml"]
    assert settings["name"]
    assert settings["version"]
    assert settings["schema"] == "v1"
    (model,) = settings["models"]
    assert model["provider"] == "openai"
    assert (model["model"], model["apiBase"]) == (to.model, to.v1)
    assert model["apiKey"] == to.token
    assert "chat" in model["roles"]


@pytest.mark.parametrize("moved", [None, "/else where"])
def test_continue_is_started_with_its_file(moved: str | None) -> None:
    start = get("continue").start
    assert start is not None
    command = start(PLAIN).replace("cn ", "printf %s, ", 1)
    environ = {"HOME": "/home/me"} | ({"CONTINUE_GLOBAL_DIR": moved} if moved else {})
    said = subprocess.run(
        ["sh", "-c", command], env=environ, capture_output=True, text=True, check=True
    )
    assert said.stdout == f"--config,{moved or '/home/me/.continue'}/config.yaml,"


@CONNECTIONS
def test_qwen_code(to: Connection) -> None:
    assert environment("qwen-code", to) == {
        "OPENAI_BASE_URL": to.v1, "OPENAI_API_KEY": to.token, "OPENAI_MODEL": to.model,
    }  # fmt: skip
    settings = files("qwen-code", to)[".qwen/settings.json"]
    (model,) = settings["modelProviders"][settings["security"]["auth"]["selectedType"]]
    assert model["id"] == settings["model"]["name"] == to.model
    assert model["baseUrl"] == to.v1
    assert settings["env"][model["envKey"]] == to.token


@CONNECTIONS
def test_pi(to: Connection) -> None:
    ((_, provider),) = files("pi", to)[".pi/agent/models.json"]["providers"].items()
    assert (provider["baseUrl"], provider["apiKey"]) == (to.v1, to.token)
    (model,) = provider["models"]
    assert model["id"] == to.model
    assert ("image" in model["input"]) is to.images


@CONNECTIONS
def test_llm(to: Connection) -> None:
    written = files("llm", to)
    (model,) = written[".config/io.datasette.llm/extra-openai-models.yaml"]
    assert model["model_id"] == model["model_name"] == to.model
    assert model["api_base"] == to.v1
    assert model["supports_tools"] is to.tools
    keys = written.get(".config/io.datasette.llm/keys.json", {})
    assert keys.get(model.get("api_key_name")) == to.key


@CONNECTIONS
def test_ollama(to: Connection) -> None:
    key = {"OLLAMA_API_KEY": to.key} if to.key else {}
    assert environment("ollama", to) == {"OLLAMA_HOST": to.url} | key


@CONNECTIONS
def test_command_lines(to: Connection) -> None:
    nowhere = Folders(Path("/nowhere"))
    words = shlex.split(configuration(get("cline"), to, nowhere))
    assert words[:3] == ["cline", "auth", "openai"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {"-k": to.token, "-m": to.model, "-b": to.v1}
    curl = shlex.split(configuration(get("curl"), to, nowhere))
    assert f"{to.v1}/chat/completions" in curl
    assert json.loads(curl[-1])["model"] == to.model
    assert (f"Authorization: Bearer {to.key}" in curl) is (to.key is not None)


@pytest.mark.parametrize(
    "id_", ["openai-python", "anthropic-python", "langchain", "pydantic-ai", "litellm"]
)
@CONNECTIONS
def test_python(id_: str, to: Connection) -> None:
    tree = ast.parse(configuration(get(id_), to, Folders(Path("/nowhere"))))
    constants = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    url = to.url if id_.startswith("anthropic") else to.v1
    model = f"openai/{to.model}" if id_ == "litellm" else to.model
    assert {url, to.token, model} <= constants
    ast.parse(get(id_).one_line(to, Folders(Path("/nowhere"))))


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("id_", ["openai-js", "anthropic-js", "ai-sdk"])
@CONNECTIONS
def test_javascript(id_: str, to: Connection, tmp_path: Path) -> None:
    program = tmp_path / "program.mjs"
    program.write_text(configuration(get(id_), to, Folders(tmp_path)), encoding="utf-8")
    subprocess.run(["node", "--check", str(program)], check=True, capture_output=True)


def test_clients_keep_their_settings_where_they_were_told_to() -> None:
    moved = {
        "CLAUDE_CONFIG_DIR": "claude-code",
        "CODEX_HOME": "codex",
        "CONTINUE_GLOBAL_DIR": "continue",
        "PI_CODING_AGENT_DIR": "pi",
        "LLM_USER_PATH": "llm",
        "XDG_CONFIG_HOME": "zed",
    }
    for variable, id_ in moved.items():
        client = get(id_)
        assert client.files is not None
        folders = Folders(Path("/home/me"), {variable: "/elsewhere"})
        path = client.files(PLAIN, folders)[0].path
        assert path.is_relative_to("/elsewhere"), id_


def test_the_file_that_exists_is_meant(tmp_path: Path) -> None:
    client = get("opencode")
    assert client.files is not None
    folder = tmp_path / ".config" / "opencode"
    folder.mkdir(parents=True)
    for name in ("opencode.json", "opencode.jsonc"):  # The last word is the second's.
        (folder / name).write_text("{}", encoding="utf-8")
        assert client.files(PLAIN, Folders(tmp_path))[0].path == folder / name


def test_a_placeholder_is_no_key() -> None:
    assert PLAIN.token == PLACEHOLDER
    assert not PLACEHOLDER.startswith("ck-")
    assert {client.id for client in AGENTS if not client.needs_tools} == {
        "aider",
        "zed",
    }
