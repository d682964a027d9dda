"""Coding agents and editors."""

import shlex

from cortex_tui.connect.client import (
    PROVIDER,
    USUAL_CONTEXT,
    Client,
    Connection,
    Environment,
    Folders,
    SettingsFile,
)
from cortex_tui.connect.formats import JSON, TOML, YAML
from cortex_tui.connect.merge import Entries, IfAbsent

KEY_VARIABLE = "CORTEX_KEY"


def _claude_environment(to: Connection) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": to.url,
        "ANTHROPIC_AUTH_TOKEN": to.token,
        "ANTHROPIC_MODEL": to.model,
        # What it asks small models for, by its vendor's names.
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": to.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": to.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": to.model,
        # A line that differs between conversations would come first in every prompt,
        # and none would be found in the prefix cache.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }


def _claude_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    path = folders.of("CLAUDE_CONFIG_DIR", folders.home / ".claude") / "settings.json"
    token = {"ANTHROPIC_AUTH_TOKEN": to.token_setting}
    wanted = {"env": _claude_environment(to) | token}
    return (SettingsFile((path,), JSON, wanted),)


def _codex_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    provider = {"name": PROVIDER, "base_url": to.v1, "wire_api": "responses"}
    if to.key:
        provider["env_key"] = KEY_VARIABLE
    wanted: dict[str, object] = {"model": to.model, "model_provider": PROVIDER}
    if to.context:
        wanted["model_context_window"] = to.context
    wanted["model_providers"] = {PROVIDER: provider}
    path = folders.of("CODEX_HOME", folders.home / ".codex") / "config.toml"
    return (SettingsFile((path,), TOML, wanted),)


def _key_variable(to: Connection) -> Environment:
    return {KEY_VARIABLE: to.key} if to.key else {}


def _zed_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    model = {
        "name": to.model,
        "display_name": IfAbsent(to.model),
        "max_tokens": to.context or USUAL_CONTEXT,
        "capabilities": {
            "tools": to.tools,
            "images": to.images,
            "parallel_tool_calls": to.tools,
            "prompt_cache_key": False,
        },
    }
    models = Entries("name", (model,))
    provider = {"api_url": to.v1, "available_models": models}
    wanted = {
        "language_models": {"openai_compatible": {PROVIDER: provider}},
        "agent": {"default_model": {"provider": PROVIDER, "model": to.model}},
    }
    return (SettingsFile((folders.config / "zed" / "settings.json",), JSON, wanted),)


def _aider_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    model = f"openai/{to.model}"
    wanted = {
        "openai-api-base": to.v1,
        "openai-api-key": to.token_setting,
        "model": model,
    }
    settings = SettingsFile((folders.home / ".aider.conf.yml",), YAML, wanted)
    if not to.context:
        return (settings,)
    about = {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_tokens": to.answer,
        "max_input_tokens": to.context,
        "max_output_tokens": to.answer,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
    }
    path = folders.home / ".aider.model.metadata.json"
    return (settings, SettingsFile((path,), JSON, {model: about}))


def _opencode_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    model: dict[str, object] = {
        "name": IfAbsent(to.model),
        "tool_call": to.tools,
        "attachment": to.images,
    }
    if to.context:
        model["limit"] = {"context": to.context, "output": to.answer}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": {"baseURL": to.v1, "apiKey": to.token_setting},
        "models": {to.model: model},
    }
    name = f"{PROVIDER}/{to.model}"
    wanted = {
        "$schema": IfAbsent("https://opencode.ai/config.json"),
        "provider": {PROVIDER: provider},
        "model": name,
        "small_model": name,
    }
    folder = folders.config / "opencode"
    # It reads both; the first one has the last word, and is what it makes itself.
    paths = (folder / "opencode.jsonc", folder / "opencode.json")
    return (SettingsFile(paths, JSON, wanted),)


def _cline(to: Connection) -> str:
    words = ["-k", to.token, "-m", to.model, "-b", to.v1]
    return f"cline auth openai {shlex.join(words)}"


def _continue_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    capabilities = [
        *(["tool_use"] if to.tools else []),
        *(["image_input"] if to.images else []),
    ]
    model: dict[str, object] = {
        "name": f"{to.model} ({PROVIDER})",
        "provider": "openai",
        "model": to.model,
        "apiBase": to.v1,
        "apiKey": to.token_setting,
        "roles": IfAbsent(["chat", "edit", "apply"]),
        "capabilities": IfAbsent(capabilities),
    }
    if to.context:
        options = {"contextLength": to.context, "maxTokens": to.answer}
        model["defaultCompletionOptions"] = IfAbsent(options)
    wanted = {
        "name": IfAbsent(PROVIDER),
        "version": IfAbsent("1.0.0"),
        "schema": IfAbsent("v1"),
        "models": Entries("name", (model,)),
    }
    path = folders.of("CONTINUE_GLOBAL_DIR", folders.home / ".continue") / "config.yaml"
    return (SettingsFile((path,), YAML, wanted),)


def _qwen_environment(to: Connection) -> Environment:
    return {
        "OPENAI_BASE_URL": to.v1,
        "OPENAI_API_KEY": to.token,
        "OPENAI_MODEL": to.model,
    }


def _qwen_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    model: dict[str, object] = {
        "id": to.model,
        "name": IfAbsent(to.model),
        "baseUrl": to.v1,
        "envKey": KEY_VARIABLE,
    }
    if to.context:
        model["generationConfig"] = {"contextWindowSize": to.context}
    wanted = {
        "modelProviders": {"openai": Entries("id", (model,))},
        "env": {KEY_VARIABLE: to.token_setting},
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": to.model},
    }
    path = folders.home / ".qwen" / "settings.json"
    return (SettingsFile((path,), JSON, wanted),)


def _pi_files(to: Connection, folders: Folders) -> tuple[SettingsFile, ...]:
    model: dict[str, object] = {
        "id": to.model,
        "input": ["text", "image"] if to.images else ["text"],
    }
    if to.context:
        model |= {"contextWindow": to.context, "maxTokens": to.answer}
    provider = {
        "baseUrl": to.v1,
        "api": IfAbsent("openai-completions"),
        "apiKey": to.token_setting,
        "models": Entries("id", (model,)),
    }
    wanted = {"providers": {PROVIDER: provider}}
    path = folders.of("PI_CODING_AGENT_DIR", folders.home / ".pi" / "agent")
    file = SettingsFile((path / "models.json",), JSON, wanted)
    return (file,)


AGENTS = (
    Client(
        "claude-code",
        "Claude Code",
        environment=_claude_environment,
        files=_claude_files,
        start=lambda to: "claude",
        needs_tools=True,
    ),
    Client(
        "codex",
        "Codex",
        files=_codex_files,
        beside=_key_variable,
        start=lambda to: "codex",
        needs_tools=True,
    ),
    Client(
        "zed",
        "Zed",
        files=_zed_files,
        # It derives the variable's name from the provider's.
        beside=lambda to: {f"{PROVIDER.upper()}_API_KEY": to.token},
        start=lambda to: "zed",
    ),
    Client(
        "aider",
        "aider",
        environment=lambda to: {
            "OPENAI_API_BASE": to.v1,
            "OPENAI_API_KEY": to.token,
            "AIDER_MODEL": f"openai/{to.model}",
        },
        files=_aider_files,
        start=lambda to: "aider",
    ),
    Client(
        "opencode",
        "opencode",
        files=_opencode_files,
        start=lambda to: "opencode",
        needs_tools=True,
    ),
    Client("cline", "Cline", program=_cline, needs_tools=True),
    Client(
        "continue",
        "Continue",
        files=_continue_files,
        # Unless it is told, it first asks for its vendor's account.
        start=lambda to: (
            'cn --config "${CONTINUE_GLOBAL_DIR:-$HOME/.continue}/config.yaml"'
        ),
        needs_tools=True,
    ),
    Client(
        "qwen-code",
        "Qwen Code",
        environment=_qwen_environment,
        files=_qwen_files,
        start=lambda to: "qwen --auth-type openai",
        needs_tools=True,
    ),
    Client(
        "pi",
        "pi",
        files=_pi_files,
        start=lambda to: f"pi --provider {PROVIDER} --model {shlex.quote(to.model)}",
        needs_tools=True,
    ),
)
