"""The agents: how each is configured and started, and what it asks for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.agents import programs, turns
from tests.agents.programs import Program
from tests.support.long_context import LONG_CONTEXT

PROMPT = "Say hello."
CHAT = "POST /v1/chat/completions"
MESSAGES = "POST /v1/messages"
RESPONSES = "POST /v1/responses"


@dataclass(frozen=True, slots=True)
class Agent:
    """One turn of an agent, over one of the ways that it has to a gateway.

    In arguments, environment and files `$url`, `$key` and `$home` are filled in.
    """

    name: str
    program: Program
    arguments: tuple[str, ...]
    read: turns.Read
    asks: frozenset[str]
    """Methods and paths of its requests, but for `HEAD /`, which needs no answer."""
    connect: str | None = None
    """Its name for `cortex-tui connect`, which then configures it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What is in its home before that, or instead."""
    environ: Mapping[str, str] = field(default_factory=dict)
    model: str = LONG_CONTEXT
    """The name that it asks for."""
    small: str | None = None
    """The name of a small one that it may ask for besides."""
    tools: int = 0
    """How many its request has at least."""
    kinds: frozenset[str] = frozenset()
    """Types of these tools."""
    reads: str | None = None
    """A tool that only reads, whatever its arguments are."""
    size: int = 0
    """Bytes that its request has at least."""
    offline: bool = True
    """Whether a proxy that leads nowhere can keep it from all but loopback: it has to
    know of exceptions."""


def _pi(api: str, base_url: str) -> Mapping[str, str]:
    model = {"id": LONG_CONTEXT, "contextWindow": 65536, "maxTokens": 4096}
    provider = {"baseUrl": base_url, "apiKey": "$key", "api": api, "models": [model]}
    return {".pi/agent/models.json": json.dumps({"providers": {"cortex": provider}})}


_OPENCODE_ANTHROPIC: Any = {
    "provider": {
        "anthropic": {
            "options": {"baseURL": "$url/v1", "apiKey": "$key"},
            "models": {LONG_CONTEXT: {}},
        }
    }
}
_CLAUDE = ("-p", PROMPT, "--output-format", "json")
_OPENCODE = ("run", "--format", "json")
_OPENCODE_ENVIRON = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
}
_AIDER = (
    "--no-git", "--yes", "--no-pretty", "--no-check-update", "--no-analytics",
    "--no-show-model-warnings", "--message", PROMPT,
)  # fmt: skip
_PI = ("--provider", "cortex", "--model", LONG_CONTEXT, "--mode", "json", PROMPT)
_FUNCTION = frozenset({"function"})

AGENTS = (
    Agent(
        "claude-code",
        programs.CLAUDE_CODE,
        _CLAUDE,
        turns.claude_code,
        frozenset({f"{MESSAGES}?beta=true"}),
        connect="claude-code",
        reads="Read",
        tools=10,
        size=40_000,
    ),
    Agent(
        "claude-code with all tools",
        programs.CLAUDE_CODE_WITH_ALL_TOOLS,
        _CLAUDE,
        turns.claude_code,
        frozenset({f"{MESSAGES}?beta=true"}),
        connect="claude-code",
        reads="Read",
        tools=25,
        size=80_000,
    ),
    Agent(
        "claude-code by its vendor's names",
        programs.CLAUDE_CODE,
        (*_CLAUDE, "--bare", "--model", "opus"),
        turns.claude_code,
        frozenset({f"{MESSAGES}?beta=true"}),
        environ={"ANTHROPIC_BASE_URL": "$url", "ANTHROPIC_API_KEY": "$key"},
        model="claude-opus-5-5",
        small="claude-haiku-4-5-20251001",
        reads="Read",
        tools=3,
    ),
    Agent(
        "codex",
        programs.CODEX,
        ("exec", "--skip-git-repo-check", "-s", "read-only", "--json", PROMPT),
        turns.codex,
        frozenset({RESPONSES}),
        connect="codex",
        reads="get_goal",
        tools=5,
        kinds=frozenset({"function", "namespace", "web_search"}),
        size=30_000,
    ),
    Agent(
        "opencode",
        programs.OPENCODE,
        (*_OPENCODE, PROMPT),
        turns.opencode,
        frozenset({CHAT}),
        connect="opencode",
        environ=_OPENCODE_ENVIRON,
        reads="read",
        tools=10,
        kinds=_FUNCTION,
    ),
    Agent(
        "opencode as Anthropic's client",
        programs.OPENCODE,
        (*_OPENCODE, "-m", f"anthropic/{LONG_CONTEXT}", PROMPT),
        turns.opencode,
        frozenset({MESSAGES}),
        files={".config/opencode/opencode.json": json.dumps(_OPENCODE_ANTHROPIC)},
        environ=_OPENCODE_ENVIRON,
        small="claude-haiku-4-5-20251001",
        reads="read",
        tools=10,
    ),
    Agent(
        "aider",
        programs.AIDER,
        _AIDER,
        turns.printed,
        frozenset({CHAT}),
        connect="aider",
        environ={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    ),
    Agent(
        "aider as Anthropic's client",
        programs.AIDER,
        ("--model", f"anthropic/{LONG_CONTEXT}", *_AIDER),
        turns.printed,
        frozenset({MESSAGES}),
        environ={
            "ANTHROPIC_API_BASE": "$url",
            "ANTHROPIC_API_KEY": "$key",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
    ),
    Agent(
        "cline",
        programs.CLINE,
        ("--json", "-P", "openai", "-m", LONG_CONTEXT, PROMPT),
        turns.cline,
        frozenset({CHAT}),
        connect="cline",
        # A daemon would go on when it has ended.
        environ={"CLINE_SESSION_BACKEND_MODE": "local"},
        reads="read_files",
        tools=5,
        kinds=_FUNCTION,
    ),
    Agent(
        "continue",
        programs.CONTINUE,
        ("--config", "$home/.continue/config.yaml", "-p", PROMPT),
        turns.printed,
        frozenset({CHAT}),
        connect="continue",
        reads="Read",
        tools=5,
        kinds=_FUNCTION,
    ),
    Agent(
        "qwen-code",
        programs.QWEN_CODE,
        ("-y", "--auth-type", "openai", "-o", "json", "-p", PROMPT),
        turns.qwen_code,
        frozenset({CHAT}),
        connect="qwen-code",
        files={".qwen/settings.json": '{"privacy": {"usageStatisticsEnabled": false}}'},
        reads="read_file",
        tools=10,
        kinds=_FUNCTION,
        size=70_000,
        offline=False,
    ),
    Agent(
        "pi",
        programs.PI,
        _PI,
        turns.pi,
        frozenset({CHAT}),
        connect="pi",
        environ={"PI_OFFLINE": "1"},
        reads="read",
        tools=4,
        kinds=_FUNCTION,
    ),
    Agent(
        "pi as Anthropic's client",
        programs.PI,
        _PI,
        turns.pi,
        frozenset({MESSAGES}),
        files=_pi("anthropic-messages", "$url"),
        environ={"PI_OFFLINE": "1"},
        reads="read",
        tools=4,
    ),
    Agent(
        "pi as a client of responses",
        programs.PI,
        _PI,
        turns.pi,
        frozenset({RESPONSES}),
        files=_pi("openai-responses", "$url/v1"),
        environ={"PI_OFFLINE": "1"},
        reads="read",
        tools=4,
        kinds=_FUNCTION,
    ),
)

COUNTING = Agent(
    "claude-code",
    programs.CLAUDE_CODE,
    ("-p", "/context", "--output-format", "json"),
    turns.claude_code,
    frozenset({f"{MESSAGES}/count_tokens?beta=true"}),
    connect="claude-code",
)
"""It asks for the tokens of each part of its prompt, and for no answer."""
