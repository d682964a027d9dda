"""One-shot commands, in this process, before a fleet that no test machine has."""

import json
from collections.abc import Iterator

import pytest

from cortex_tui import oneshot
from cortex_tui.cli import main
from neuron.protocol.types import Servable
from services.schema import FleetSnapshot, Replica
from tests.ui import fleets
from tests.ui.consoles import gateway_in_a_thread
from tests.ui.fake_gateway import FakeGateway


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with gateway_in_a_thread(fleets.big()) as running:
        yield running


def run(gateway: FakeGateway, *arguments: str) -> int:
    return main([*arguments, "--attach", gateway.target.url])


def test_status_tells_the_fleet_in_words(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(gateway, "status") == 0
    head, counts, _, *rest = capsys.readouterr().out.splitlines()
    assert head == "gateway http://127.0.0.1:31313  version 0.1.0  pid 4121  up 3d04h"
    assert counts == (
        "nodes 3/4  loaded 4 of 9 models  running 3  waiting 1  tok/s 1,110"
    )
    nodes, models = rest[:5], rest[6:12]
    assert nodes[0].split() == [
        "NODE", "STATE", "DEVICE", "UTIL", "MEMORY", "TOK/S", "RUN", "WAIT",
    ]  # fmt: skip
    assert nodes[1].split()[:4] == ["atlas", "●", "ready", "H100"]
    assert nodes[4].startswith("dione   ◌ stale 4s  RTX 3090")
    assert [line.split()[0] for line in models] == [
        "MODEL", "⚑", "llama-3.3-70b", "⚑", "qwen3-coder-30b", "gemma-3-27b-q5",
    ]  # fmt: skip
    assert "phi-4-14b" in rest[12]
    assert rest[14] == "phi-4-14b on castor: out of memory"
    assert not any("deepseek" in line for line in rest), "unloaded ones are `models`"


def test_models_lists_all_of_them(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(gateway, "models") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(gateway.snapshot.models)
    assert run(gateway, "models", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["id"] for m in listed] == sorted(m.id for m in gateway.snapshot.models)


def test_models_says_why_one_cannot_be_served(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    model = min(gateway.snapshot.models, key=lambda model: model.id)
    reason = "config.json: architectures is missing"
    model.replicas = [Replica(node="dione", servable=Servable(ok=False, reason=reason))]
    assert run(gateway, "models") == 0
    *_, blank, said = capsys.readouterr().out.splitlines()
    assert (blank, said) == ("", f"{model.id} on dione: {reason}")


def test_json_is_the_same_bytes_for_the_same_fleet(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(gateway, "status", "--json") == 0
    first = capsys.readouterr().out
    assert run(gateway, "status", "--json") == 0
    assert capsys.readouterr().out == first
    assert FleetSnapshot.model_validate_json(first) == gateway.snapshot


@pytest.mark.parametrize(
    ("arguments", "outcome", "said"),
    [
        (["load", "m"], {"node": "atlas"}, "loaded m on atlas in 1.5s"),
        (["load", "m", "--node", "b"], {}, "loaded m on b in 1.5s"),
        (["unload", "m"], {"freed_bytes": 3 * 2**30}, "unloaded m, 3.0G freed"),
        (["pin", "m"], {}, "pinned m"),
        (["unpin", "m"], {}, "unpinned m"),
    ],
)
def test_verbs_wait_and_say_what_was_done(
    gateway: FakeGateway,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    outcome: dict[str, object],
    said: str,
) -> None:
    monkeypatch.setattr(oneshot, "POLL_S", 0.0)
    gateway.outcome |= outcome
    assert run(gateway, *arguments) == 0
    assert capsys.readouterr().out == said + "\n"
    kind, action = gateway.actions[0]
    assert (kind, action.model) == (arguments[0], "m")
    assert f"(cortex-tui {arguments[0]})" in action.by


def test_no_wait_does_not(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(gateway, "unload", "m", "--no-wait") == 0
    assert capsys.readouterr().out == "unload m: operation op-1 running\n"


def test_a_refusal_and_a_failure_are_one_with_the_reason(
    gateway: FakeGateway,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(oneshot, "POLL_S", 0.0)
    gateway.outcome = {"state": "failed", "error": "out of memory"}
    assert run(gateway, "load", "m") == 1
    assert capsys.readouterr().err == "cortex-tui: load m: out of memory\n"
    gateway.refusal = "no node has it"
    assert run(gateway, "load", "m") == 1
    assert capsys.readouterr().err == "cortex-tui: no node has it\n"


def test_something_else_at_that_address_is_said_to_be_so(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.page = "<html>It works!</html>"
    assert run(gateway, "status") == 1
    assert "not a cortex gateway" in capsys.readouterr().err


def test_watch_goes_on_until_interrupted(
    gateway: FakeGateway,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = []

    def pause(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    assert run(gateway, "status", "--watch") == 130
    assert capsys.readouterr().out.count("gateway http://") == 3
    assert rounds == [oneshot.WATCH_S] * 3


def test_nobody_there_is_three(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--attach", "127.0.0.1:1"]) == 3
    assert capsys.readouterr().err == (
        "cortex-tui: no gateway answers at http://127.0.0.1:1: connection refused\n"
    )
    assert main(["status", "--attach", "unix:/nowhere/at.sock"]) == 3
    assert "no such file or directory" in capsys.readouterr().err
