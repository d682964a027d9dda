"""The one-shot commands against the real gateway: output and exit codes."""

import json
import time
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest

from cortex_tui import oneshot
from cortex_tui.target import parse
from services import schema
from tests.integration.console.terminals import (
    DEADLINE_S,
    MODEL,
    cortex,
    environ,
    gateway_of,
)
from tests.support.processes import Home, Process, announced_process


@pytest.fixture
def gateway(home: Home) -> Iterator[Process]:
    """`cortex-tui --serve`, once its local neuron has said which models it has."""
    command = ["cortex_tui", "--serve"]
    with announced_process(command, home, "served", environ(home)) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not oneshot.fleet(parse(process.url)).models:
            assert time.monotonic() < deadline, process.log_text()
            time.sleep(0.05)
        yield process


def refused(done: CompletedProcess[str]) -> str:
    """What a refused command says; it says nothing on standard output."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    return done.stderr


def test_a_models_life_in_commands(home: Home, gateway: Process) -> None:
    loaded = cortex(home, "load", MODEL)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.startswith(f"loaded {MODEL} on local in ")
    assert cortex(home, "pin", MODEL).stdout == f"pinned {MODEL}\n"

    status = cortex(home, "status").stdout.splitlines()
    assert status[0].startswith(f"gateway {gateway.url}  version ")
    assert status[1].startswith("nodes 1/1  loaded 1 of 1 model  running 0  waiting 0")
    assert status[3].split()[:3] == ["NODE", "STATE", "DEVICE"]
    assert "local" in status[4]
    assert status[-1].startswith(f"⚑  {MODEL}  ● ready")

    models = json.loads(cortex(home, "models", "--json").stdout)
    assert [(m["id"], m["state"], m["pinned"]) for m in models] == [
        (MODEL, "ready", True)
    ]
    assert cortex(home, "unpin", MODEL).stdout == f"unpinned {MODEL}\n"
    unloaded = cortex(home, "unload", MODEL, "--node", "local")
    assert unloaded.stdout.startswith(f"unloaded {MODEL} from local")
    assert "no model loaded" in cortex(home, "status").stdout


def test_no_wait_returns_with_the_operation(home: Home, gateway: Process) -> None:
    begun = cortex(home, "load", MODEL, "--no-wait")
    assert begun.returncode == 0
    assert begun.stdout.startswith(f"load {MODEL}: operation ")


def test_json_is_the_schema_itself_and_stable(home: Home, gateway: Process) -> None:
    printed = cortex(home, "status", "--json").stdout
    snapshot = schema.FleetSnapshot.model_validate_json(printed)
    assert printed == snapshot.model_dump_json(indent=2) + "\n"
    assert snapshot.gateway.pid == gateway.announcement.pid


def test_ascii_output_is_ascii(home: Home, gateway: Process) -> None:
    assert cortex(home, "--ascii", "status").stdout.isascii()


def test_attach_reaches_the_same_gateway(home: Home, gateway: Process) -> None:
    there = cortex(home, "status", "--attach", gateway.url)
    assert there.stdout.startswith(f"gateway {gateway.url}")
    assert cortex(home, "--attach", gateway.url, "status").returncode == 0


def test_refusals_say_what_would_be_right(home: Home, gateway: Process) -> None:
    assert MODEL in refused(cortex(home, "load", "no-such-model"))
    assert "elsewhere" in refused(cortex(home, "load", MODEL, "--node", "elsewhere"))


def test_stop_then_nobody_answers(home: Home, gateway: Process) -> None:
    stopped = cortex(home, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert f"pid {gateway.announcement.pid}" in stopped.stdout
    assert gateway_of(home) is None
    for arguments in (["status"], ["stop"], ["load", MODEL]):
        gone = cortex(home, *arguments)
        assert gone.returncode == 3
        assert "no gateway runs on this host" in gone.stderr


def test_nobody_at_that_address(home: Home) -> None:
    gone = cortex(home, "status", "--attach", "127.0.0.1:1")
    assert gone.returncode == 3
    assert "connection refused" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["frobnicate"], "argument COMMAND: invalid choice"),
        (["--attach", "ftp://x", "status"], "not an address"),
        (["--serve", "status"], "neither a command"),
        (["--listen", "127.0.0.1:1"], "needs --serve"),
        (["--readonly", "status"], "belongs to the console"),
        (["--serve", "--ascii"], "for what draws"),
        (["--attach", "gpu7", "stop"], "gateway of this host"),
        (["--config", "x.toml", "status"], "started here"),
        ([], "needs a terminal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_two(home: Home, arguments: list[str], reason: str) -> None:
    wrong = cortex(home, *arguments)
    assert wrong.returncode == 2
    assert reason in wrong.stderr


def test_a_configuration_that_cannot_be_used_is_two(home: Home) -> None:
    path = home.config_file("cortex.toml", "[gateway]\nlistn = 1\n")
    served = cortex(home, "--serve")
    assert served.returncode == 2
    assert f"{path}:2: gateway.listn: unknown key" in served.stderr


def test_version(home: Home) -> None:
    assert cortex(home, "--version").stdout.startswith("cortex-tui ")
