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


CLAUDE_CODE = from_npm(
    "@anthropic-ai/claude-code", "2.1.197", "@anthropic-ai/claude-code-*/claude"
)
CODEX = from_npm("@openai/codex", "0.169.0", ".bin/codex")
OPENCODE = from_npm("opencode-ai", "1.18.33", "opencode-*-*/bin/opencode")
CLINE = from_npm("cline", "3.0.65", ".bin/cline")
CONTINUE = from_npm("@continuedev/cli", "1.5.47", ".bin/cn")
QWEN_CODE = from_npm("@qwen-code/qwen-code", "0.15.10", ".bin/qwen")
PI = from_npm("@mariozechner/pi-coding-agent", "0.73.1", ".bin/pi")
AIDER = from_pypi("aider-chat", "0.86.2", "aider")
