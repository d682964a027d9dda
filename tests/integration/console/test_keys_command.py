"""`cortex-tui keys`, without a gateway and with one that runs."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex_tui import plain_http
from cortex_tui.plain_http import Refused
from cortex_tui.target import Target, parse
from services.keys.file import read_keys
from services.keys.store import SPEND_FILE
from services.schema import FLEET, KEYS, KeyList
from tests.integration.console.terminals import DEADLINE_S, cortex, environ
from tests.support.processes import Home, Process, announced_process

SECRET = re.compile(r"ck-[a-z0-9]{8}-[0-9a-f]{48}\n")


def keys_file(home: Home) -> Path:
    return home.root / "config" / "cortex" / "keys.toml"


def made(home: Home, *arguments: str) -> str:
    """The secret that was printed, and nothing else."""
    done = cortex(home, "keys", *arguments)
    assert done.returncode == 0, done.stderr
    assert SECRET.fullmatch(done.stdout)
    assert done.stdout.strip() not in keys_file(home).read_text()
    return done.stdout.strip()


def test_a_key_with_everything(home: Home) -> None:
    done = cortex(
        home, "keys", "add", "alice", "--scope", "admin", "--models", "qwen*,llama-3",
        "--rpm", "6", "--tpm", "7000", "--budget-tokens", "8000", "--budget-cost",
        "1.5", "--window", "2w", "--priority", "-3",
    )  # fmt: skip
    assert SECRET.fullmatch(done.stdout)
    assert "the key of 'alice', shown this once" in done.stderr
    assert "it is the first one: the gateway now refuses" in done.stderr
    (alice,) = read_keys(keys_file(home)).entries
    assert (alice.scope, alice.models) == ("admin", ("qwen*", "llama-3"))
    assert (alice.requests_per_minute, alice.tokens_per_minute) == (6, 7000)
    assert (alice.budget_tokens, alice.budget_cost) == (8000, 1.5)
    assert (alice.window, alice.priority) == ("2w", -3)
    assert alice.created_at is not None
    assert abs(alice.created_at.timestamp() - time.time()) < DEADLINE_S
    assert keys_file(home).stat().st_mode & 0o777 == 0o600


def test_without_a_gateway_keys_are_listed_from_the_files(home: Home) -> None:
    assert "no keys in" in cortex(home, "keys", "list").stdout
    made(home, "add", "alice", "--budget-tokens", "5000000")
    made(home, "add", "bob")
    assert cortex(home, "keys", "revoke", "bob").stdout.startswith("revoked the key of")
    lines = cortex(home, "keys", "list").stdout.splitlines()
    assert lines[0].split()[:4] == ["NAME", "ID", "SCOPE", "MODELS"]
    assert re.match(r"alice +ck-\w{8} +inference +\* .* 0/5.0M ", lines[1])
    assert re.match(r"bob +ck-\w{8} +revoked ", lines[2])
    assert lines[-1] == "1 key, asked of everybody"
    told = KeyList.model_validate_json(cortex(home, "keys", "list", "--json").stdout)
    assert [key.name for key in told.keys] == ["alice", "bob"]
    assert told.path == str(keys_file(home))
    assert cortex(home, "--ascii", "keys", "list").stdout.isascii()


def test_keys_are_listed_although_their_spending_cannot_be_read(home: Home) -> None:
    made(home, "add", "alice")
    database = home.root / "state" / "cortex" / SPEND_FILE
    database.parent.mkdir(parents=True)
    database.write_text("no database, and long enough " * 9)
    done = cortex(home, "keys", "list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith("alice ")
    assert f"cannot be told: {database}: file is not a database" in done.stderr


def test_keys_beside_another_configuration(home: Home, tmp_path: Path) -> None:
    config = str(tmp_path / "cortex.toml")
    done = cortex(home, "keys", "add", "alice", "--config", config)
    assert done.returncode == 0, done.stderr
    assert len(read_keys(tmp_path / "keys.toml").entries) == 1
    listed = cortex(home, "--config", config, "keys", "list").stdout
    assert listed.splitlines()[1].startswith("alice ")
    assert not keys_file(home).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["revoke", "bob"], 1, "there is no key 'bob'; there is: alice"),
        (["add", "alice"], 1, "there is a key 'alice' already"),
        (["add", "bob", "--rpm", "0"], 1, "requests_per_minute: "),
        (["add", "bob", "--models", ""], 1, "models.0: should be printable"),
        (["add", "bob", "--models", "a, b"], 1, "models.1: should be printable"),
        (["add", "bob", "--window", "1y"], 1, "window: should be hours, days or weeks"),
        (["rotate", "alice", "--grace", "soon"], 1, "--grace: should be hours"),
        (["add", "bob", "--scope", "root"], 2, "invalid choice: 'root'"),
        (["add"], 2, "the following arguments are required: name"),
        ([], 2, "VERB"),
    ],
)
def test_refusals(home: Home, arguments: list[str], code: int, says: str) -> None:
    made(home, "add", "alice")
    before = keys_file(home).read_text()
    done = cortex(home, "keys", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert keys_file(home).read_text() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--attach", "gpu7", "keys", "add", "a"], "on the gateway's own host"),
        (["--key", "ck-a-b", "status"], "--key needs --attach"),
        (["keys", "list", "--config", "x", "--attach", "gpu7"], "started here"),
    ],
)
def test_combinations_that_mean_nothing(
    home: Home, arguments: list[str], says: str
) -> None:
    done = cortex(home, *arguments)
    assert done.returncode == 2
    assert says in done.stderr


# With a gateway.


@pytest.fixture
def gateway(home: Home, tmp_path: Path) -> Iterator[Process]:
    """One whose configuration is not where it would be looked for."""
    config = tmp_path / "cortex.toml"
    config.write_text('[local]\nneuron = "off"\n')
    relative = os.path.relpath(config)
    command = ["cortex_tui", "--serve", "--config", relative]
    with announced_process(command, home, "served", environ(home)) as process:
        yield process


def is_refused(where: Target) -> bool:
    try:
        plain_http.request(where, "GET", FLEET)
    except Refused as error:
        return error.status == 401
    return False


def test_a_gateway_that_runs_takes_keys_as_they_are_made(
    home: Home, gateway: Process, tmp_path: Path
) -> None:
    url = gateway.url
    assert not is_refused(parse(url))
    done = cortex(home, "keys", "add", "alice", "--scope", "admin")
    assert str(tmp_path / "keys.toml") in done.stderr, "its own file, not the usual one"
    shown = done.stdout.strip()
    assert is_refused(parse(url))
    assert not is_refused(Target(url, key=shown))

    without = cortex(home, "status", "--attach", url)
    assert without.returncode == 1
    assert "this gateway needs a key" in without.stderr
    assert "--key or CORTEX_KEY" in without.stderr
    for arguments in (
        ("status", "--attach", url, "--key", shown),
        ("--attach", url, "--key", shown, "status"),
        ("keys", "list", "--attach", url, "--key", shown),
        ("keys", "list"),
        ("status",),
    ):
        assert cortex(home, *arguments).returncode == 0, arguments

    told = json.loads(plain_http.request(Target(url, key=shown), "GET", KEYS))
    assert told["required"]
    assert told["keys"][0]["last_used"] is not None

    second = cortex(home, "keys", "rotate", "alice", "--grace", "1h")
    assert "the old one is good until" in second.stderr
    assert not is_refused(Target(url, key=second.stdout.strip()))
    assert not is_refused(Target(url, key=shown))
    third = cortex(home, "keys", "rotate", "alice").stdout.strip()
    assert is_refused(Target(url, key=shown))
    assert not is_refused(Target(url, key=third))
    assert cortex(home, "keys", "revoke", "alice").returncode == 0
    assert is_refused(Target(url, key=third))
    assert is_refused(parse(url))
    assert cortex(home, "keys", "list").stdout.splitlines()[1].split()[2] == "revoked"
    log = gateway.log_text()
    assert not SECRET.search(log.replace(" ", "\n"))
    assert shown not in log
