"""Agents' command lines, installed when a test needs them.

Each is several hundred MB; they are kept in the user's cache folder.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import npm
from tests.support.cache import kept_folder

INSTALL_TIMEOUT_S = 600.0
Program = Callable[[], list[str]]
"""The beginning of its command; the test is skipped where it cannot be installed."""


def from_npm(package: str, version: str, file: str) -> Program:
    """`file` is a pattern within `node_modules`. Installing runs no scripts, so where
    one would put a platform's own program in place, that program itself is meant."""

    def command() -> list[str]:
        folder = npm.package(package, version)
        found = sorted(folder.glob(file))
        if not found:
            pytest.skip(f"{package} has no program for this platform")
        return [str(found[0])]

    return command


def from_pypi(package: str, version: str, module: str) -> Program:
    """In an environment of its own."""

    def make(folder: Path) -> None:
        requirement = f"{package}=={version}"
        subprocess.run(
            [sys.executable, "-m", "venv", str(folder)],
            check=True,
            timeout=INSTALL_TIMEOUT_S,
        )
        done = subprocess.run(
            [str(folder / "bin/python"), "-m", "pip", "install", "-q", requirement],
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"pip cannot install {requirement}: {done.stderr[-300:]}")

    def command() -> list[str]:
        folder = kept_folder(f"{package}-{version}", make)
        return [str(folder / "bin/python"), "-m", module]

    return command


_CLAUDE_CODE = "@anthropic-ai/claude-code", "@anthropic-ai/claude-code-*/claude"
CLAUDE_CODE = from_npm(_CLAUDE_CODE[0], "2.1.331", _CLAUDE_CODE[1])
CLAUDE_CODE_WITH_ALL_TOOLS = from_npm(_CLAUDE_CODE[0], "2.1.197", _CLAUDE_CODE[1])
"""Later ones send some of their tools only when they are looked for."""
CODEX = from_npm("@openai/codex", "0.169.0", ".bin/codex")
OPENCODE = from_npm("opencode-ai", "1.18.33", "opencode-*-*/bin/opencode")
CLINE = from_npm("cline", "3.0.65", ".bin/cline")
CONTINUE = from_npm("@continuedev/cli", "1.5.47", ".bin/cn")
QWEN_CODE = from_npm("@qwen-code/qwen-code", "0.24.4", ".bin/qwen")
PI = from_npm("@mariozechner/pi-coding-agent", "0.73.1", ".bin/pi")
AIDER = from_pypi("aider-chat", "0.86.2", "aider")
