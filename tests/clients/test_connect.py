"""What `cortex-tui connect` prints and writes is run and read by the real clients."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import ASSISTANT
from tests.integration.console.terminals import cortex
from tests.support import npm, python_clients
from tests.support.processes import Home, Process

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def connect(home: Home, gateway: Process, *arguments: str) -> str:
    where = ("--attach", gateway.url, "--model", ASSISTANT)
    done = cortex(home, "connect", *arguments, *where)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run(home: Home, *command: str, cwd: Path = ROOT, **environ: str) -> str:
    """What a client prints, in a home of its own."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=home.environ | _QUIET | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(home: Home, *arguments: str) -> str:
    """A module of Python, that reaches nobody but the gateway."""
    path = os.pathsep.join((str(ROOT), str(home.root)))
    command = (sys.executable, "-m", "tests.support.loopback", *arguments)
    return run(home, *command, PYTHONPATH=path)


@pytest.mark.clients
@pytest.mark.parametrize(
    ("client", "package"),
    [
        ("openai-python", "openai"),
        ("anthropic-python", "anthropic"),
        ("langchain", "langchain_openai"),
        ("pydantic-ai", "pydantic_ai"),
        ("litellm", "litellm"),
    ],
)
def test_programs_in_python(
    home: Home, gateway: Process, client: str, package: str
) -> None:
    python_clients.require(package)
    program = connect(home, gateway, client)
    (home.root / "printed_program.py").write_text(program, encoding="utf-8")
    assert python(home, "printed_program").strip()


@pytest.mark.timeout(400)  # The first one installs the packages.
@pytest.mark.parametrize("client", ["openai-js", "anthropic-js", "ai-sdk"])
def test_programs_in_javascript(home: Home, gateway: Process, client: str) -> None:
    packages = npm.locked_packages(Path(__file__).with_name("js"))
    (home.root / "node_modules").symlink_to(packages)
    program = connect(home, gateway, client)
    (home.root / "program.mjs").write_text(program, encoding="utf-8")
    assert run(home, npm.node(), "program.mjs", cwd=home.root).strip()


def test_curl(home: Home, gateway: Process) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = connect(home, gateway, "curl")
    assert '"finish_reason"' in run(home, "bash", "-c", command)


@pytest.mark.clients
def test_llm(home: Home, gateway: Process) -> None:
    python_clients.require("llm")
    key = "ck-whatever-1"
    connect(home, gateway, "llm", "--write", "--key", key)
    assert (
        run(home, sys.executable, "-m", "llm", "keys", "get", "cortex").strip() == key
    )
    assert python(home, "llm", "-m", ASSISTANT, "Hello").strip()


@pytest.mark.clients
def test_aider(home: Home, gateway: Process) -> None:
    aider = shutil.which("aider")
    if aider is None:
        pytest.skip("aider is not installed: pip install aider-chat, apart from others")
    connect(home, gateway, "aider", "--write")
    before = answered(gateway)
    options = (
        "--no-git", "--yes", "--no-pretty", "--no-check-update", "--no-analytics",
        "--map-tokens", "0", "--chat-mode", "ask", "--message", "Hello",
    )  # fmt: skip
    run(home, aider, *options, cwd=home.root)
    assert answered(gateway) == before + 1


def answered(gateway: Process) -> int:
    """Chats that its log tells of."""
    return gateway.log_text().count(f" model={ASSISTANT} node=local route=/v1/chat/")
