"""`cortex-tui connect` before the real gateway: address, model and key are its own."""

import json
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex_tui import oneshot
from cortex_tui.connect.client import PLACEHOLDER
from cortex_tui.target import parse
from neuron.models.bundled import bundled_root
from tests.integration.console.terminals import DEADLINE_S, MODEL, cortex, environ
from tests.support.processes import Home, Process, announced_process, temporary_home

CHAT = "a-chat-model"
_CATALOGUE = f"""
[[models]]
id = "{CHAT}"
aliases = ["claude-*", "fast"]
"""
_NOBODY = ("--attach", "127.0.0.1:1")


def serving(home: Home) -> Iterator[Process]:
    """`cortex-tui --serve` with two models, once it knows both."""
    folder = home.root / "data" / "cortex" / "models" / CHAT
    shutil.copytree(bundled_root() / MODEL, folder)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    home.config_file("models.toml", _CATALOGUE)
    command = ["cortex_tui", "--serve"]
    with announced_process(command, home, "served", environ(home)) as process:
        deadline = time.monotonic() + DEADLINE_S
        while len(oneshot.fleet(parse(process.url)).models) < 2:
            assert time.monotonic() < deadline, process.log_text()
            time.sleep(0.05)
        yield process


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    with temporary_home() as home:
        yield home


@pytest.fixture(scope="module")
def gateway(shared_home: Home) -> Iterator[Process]:
    yield from serving(shared_home)


def connected(home: Home, *arguments: str) -> tuple[str, str]:
    """What it prints, and what it notes."""
    done = cortex(home, "connect", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_without_a_client_it_lists_them_and_needs_no_gateway(home: Home) -> None:
    printed, noted = connected(home)
    assert printed.startswith("claude-code ")
    assert noted == ""


def test_address_and_model_are_the_running_gateways(
    shared_home: Home, gateway: Process
) -> None:
    printed, noted = connected(shared_home, "claude-code")
    assert f"export ANTHROPIC_BASE_URL={gateway.url}\n" in printed
    assert f"export ANTHROPIC_AUTH_TOKEN={PLACEHOLDER}\n" in printed
    # Neither is loaded or pinned; agents can do more with the one that calls tools.
    assert f"export ANTHROPIC_MODEL={CHAT}\n" in printed
    assert noted == (
        f"cortex-tui: model {CHAT} (not loaded yet); --model takes {MODEL}\n"
    )


def test_a_named_model(shared_home: Home, gateway: Process) -> None:
    printed, noted = connected(shared_home, "curl", "--model", MODEL)
    assert f'"model": "{MODEL}"' in printed
    assert noted == ""
    printed, _ = connected(shared_home, "curl", "--model", "claude-opus-9")
    assert '"model": "claude-opus-9"' in printed, "an alias is a name, too"
    _, noted = connected(shared_home, "pi", "--model", MODEL)
    assert noted == f"cortex-tui: {MODEL} cannot call tools, and pi needs them\n"
    done = cortex(shared_home, "connect", "curl", "--model", "no-such-model")
    assert done.returncode == 1
    assert done.stdout == ""
    assert CHAT in done.stderr


def test_the_context_is_told(shared_home: Home, gateway: Process) -> None:
    printed, _ = connected(shared_home, "codex", "--attach", gateway.url)
    assert "model_context_window = 256\n" in printed


def test_write_then_write_again(shared_home: Home, gateway: Process) -> None:
    path = shared_home.root / "config" / "zed" / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_text('{\n  // mine\n  "vim_mode": true,\n}\n', encoding="utf-8")
    printed, _ = connected(shared_home, "zed", "--write")
    assert printed.startswith(f"{path}: merged\n  language_models: added\n")
    text = path.read_text("utf-8")
    assert text.startswith('{\n  // mine\n  "vim_mode": true,\n  "language_models": {')
    printed, _ = connected(shared_home, "zed", "--write")
    assert printed.startswith(f"{path}: says so already\n")
    assert path.read_text("utf-8") == text


def test_a_pinned_model_comes_first(shared_home: Home, gateway: Process) -> None:
    assert cortex(shared_home, "pin", MODEL).returncode == 0
    try:
        _, noted = connected(shared_home, "llm")
    finally:
        assert cortex(shared_home, "unpin", MODEL).returncode == 0
    assert f"model {MODEL} (pinned); --model takes {CHAT}" in noted


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["connect", "emacs"], 2, "no client 'emacs'"),
        (["connect", "--write"], 2, "--write needs a client"),
        (["connect", "--model", "m"], 2, "--model needs a client"),
        (["connect", "curl", "--attach", "unix:/run/x"], 2, "clients need a URL"),
        (["connect", "curl", *_NOBODY], 3, "connection refused"),
        (["connect", "curl", *_NOBODY, "--key", "ключ"], 1, "ASCII characters only"),
        (["connect", "curl"], 3, "no gateway runs on this host"),
    ],
)
def test_what_it_refuses(
    home: Home, arguments: list[str], code: int, said: str
) -> None:
    done = cortex(home, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_clients_without_a_file_cannot_be_written(
    shared_home: Home, gateway: Process
) -> None:
    done = cortex(shared_home, "connect", "cline", "--write")
    assert (done.returncode, done.stdout) == (1, "")
    assert "use what `cortex-tui connect cline` prints" in done.stderr


def test_a_gateway_that_requires_keys(home: Home) -> None:
    for process in serving(home):
        secret = cortex(home, "keys", "add", "me").stdout.split()[0]
        assert secret.startswith("ck-")
        deadline = time.monotonic() + DEADLINE_S
        while "requires keys" not in (done := cortex(home, "connect", "pi")).stderr:
            assert time.monotonic() < deadline, done
            time.sleep(0.1)
        # The socket tells this user the models; the key is still to be made.
        assert f'"apiKey": "{PLACEHOLDER}"' in done.stdout

        elsewhere = cortex(home, "connect", "pi", "--attach", process.url)
        assert elsewhere.returncode == 1
        assert "requires keys" in elsewhere.stderr
        wrong = cortex(home, "connect", "pi", "--key", secret[:-1])
        assert wrong.returncode == 1

        printed, noted = connected(home, "pi", "--write", "--key", secret)
        assert "requires keys" not in noted
        assert secret not in printed
        path = home.root / ".pi" / "agent" / "models.json"
        assert _pi_key(path) == secret
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        limited = cortex(home, "keys", "add", "ci", "--models", "qwen3-*").stdout
        ask = ("connect", "pi", "--key", limited.split()[0])
        deadline = time.monotonic() + DEADLINE_S
        while (
            "no model to serve to this key" not in (done := cortex(home, *ask)).stderr
        ):
            assert time.monotonic() < deadline, done
            time.sleep(0.1)
        assert (done.returncode, done.stdout) == (1, "")


def _pi_key(path: Path) -> object:
    return json.loads(path.read_text("utf-8"))["providers"]["cortex"]["apiKey"]
