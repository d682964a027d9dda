"""The real `cortex-tui` in a terminal, with a gateway, neuron and model of its own."""

import os
import signal

from tests.integration.console.terminals import (
    MODEL,
    Ended,
    Terminal,
    cortex,
    gateway_of,
    no_gateway_left,
    terminal,
)
from tests.support.processes import Home


def load(console: Terminal) -> None:
    console.wait_for(MODEL, "unloaded")
    console.press("l")
    console.wait_for("recommended")
    console.press("\r")
    console.wait_for("● ready")


def leave(console: Terminal) -> bool:
    """Quit; whether it asked what to do with the gateway, as only its owner does."""
    console.press("q")
    try:
        console.wait_for("This console started the gateway")
    except Ended:
        owner = False
    else:
        owner = True
        console.press("d")
    assert console.wait() == 0
    return owner


def test_load_a_model_hear_a_story_unload_and_detach(home: Home) -> None:
    with no_gateway_left(home), terminal(home) as console:
        load(console)
        console.press("t")
        console.wait_for("not sent yet")
        console.press("\r")
        console.wait_for("TTFT", "tok/s", "tokens", "done (")
        console.press("\x1b")
        console.wait_for("Nodes", "Models")
        console.press("p")
        console.wait_for(f"pinned {MODEL}", "⚑")
        console.press("z")
        console.wait_for(f"unpinned {MODEL}", f"▌  {MODEL}")
        console.press("u")
        console.wait_for(f"unload {MODEL} from local?")
        console.press("y")
        console.wait_for("○ unloaded")
        console.press("q")
        console.wait_for("This console started the gateway")
        console.press("d")
        assert console.wait() == 0
        assert "goes on" in console.text

        assert gateway_of(home) is not None
        assert cortex(home, "status").returncode == 0


def test_two_consoles_share_one_gateway_and_the_second_just_leaves(home: Home) -> None:
    with (
        no_gateway_left(home),
        terminal(home) as first,
        terminal(home) as second,
    ):
        first.wait_for(MODEL, "1/1 nodes")
        second.wait_for(MODEL, "1/1 nodes")
        load(first)
        second.wait_for("● ready")

        gateway = gateway_of(home)
        assert gateway is not None
        assert sorted([leave(first), leave(second)]) == [False, True]
        after = gateway_of(home)
        assert after is not None
        assert after.pid == gateway.pid


def test_a_configuration_that_comes_too_late_is_not_ignored(home: Home) -> None:
    config = home.root / "other.toml"
    config.write_text("")
    with no_gateway_left(home), terminal(home) as first:
        first.wait_for(MODEL)
        with terminal(home, "--config", str(config)) as second:
            second.wait_for("other.toml is not in force")


def test_stopping_what_it_started(home: Home) -> None:
    with no_gateway_left(home), terminal(home) as console:
        console.wait_for(MODEL)
        console.press("q")
        console.wait_for("Stop the gateway")
        console.press("s")
        assert console.wait() == 0
        assert "the gateway is stopped" in console.text
        assert gateway_of(home) is None


def test_a_closed_terminal_leaves_the_gateway_serving(home: Home) -> None:
    with no_gateway_left(home):
        with terminal(home) as console:
            console.wait_for(MODEL)
        assert console.process.returncode is not None
        assert cortex(home, "status").returncode == 0


def test_a_crashed_gateway_is_started_again(home: Home) -> None:
    with no_gateway_left(home), terminal(home) as console:
        console.wait_for(MODEL, "1/1 nodes")
        before = gateway_of(home)
        assert before is not None
        console.press("j")
        os.kill(before.pid, signal.SIGKILL)
        console.wait_for("not answering")
        console.wait_for("1/1 nodes")
        after = gateway_of(home)
        assert after is not None
        assert after.pid != before.pid


def test_a_gateway_stopped_on_purpose_stays_stopped(home: Home) -> None:
    with no_gateway_left(home), terminal(home) as console:
        console.wait_for(MODEL)
        console.press("j")
        assert cortex(home, "stop").returncode == 0
        console.wait_for("the gateway was stopped")
        console.press("q")
        assert console.wait() == 0
        assert gateway_of(home) is None


def test_a_bad_configuration_is_shown_not_retried(home: Home) -> None:
    home.config_file("cortex.toml", "[gateway]\nlistn = 1\n")
    with no_gateway_left(home), terminal(home, size=(140, 40)) as console:
        console.wait_for("cortex.toml:2", "unknown key")
        console.press("q")
        assert console.wait() == 0
