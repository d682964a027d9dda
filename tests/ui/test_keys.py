"""What each key does, pressed on the real console."""

from dataclasses import replace

import pytest

from cortex_tui.actions import ACTIONS
from cortex_tui.client import GatewayClient
from cortex_tui.dialogs.choice import ChoiceDialog
from cortex_tui.dialogs.help import HelpDialog
from cortex_tui.dialogs.keys import KeysDialog
from cortex_tui.dialogs.load import LoadDialog
from cortex_tui.dialogs.test import TestDialog
from cortex_tui.store import Link
from cortex_tui.widgets.live_table import LiveTable
from neuron.protocol.types import ModelState
from services.schema import (
    FleetDelta,
    FleetEvent,
    Operation,
    OperationState,
)
from tests.ui import fleets
from tests.ui.consoles import Console, console
from tests.ui.fake_gateway import fake_gateway


async def test_movement() -> None:
    async with console(fleets.big()) as c:
        models = c.app.fleet.models
        assert models.cursor == 0
        await c.press("j", "j", "down")
        assert models.cursor == 3
        await c.press("k", "up")
        assert models.cursor == 1
        await c.press("G")
        assert models.selected == "nomic-embed-v2"
        assert "nomic-embed-v2" in c.text("#models"), "scrolled into view"
        await c.press("g")
        assert models.cursor == 0
        await c.press("pagedown")
        assert models.cursor == models.page
        await c.press("pageup", "k")
        assert models.cursor == 0


async def test_tab_goes_round_the_panels_and_back() -> None:
    async with console(fleets.big()) as c:
        seen = []
        for _ in range(4):
            await c.press("tab")
            focused = c.app.focused
            assert focused is not None
            assert focused.display
            seen.append(focused.id)
        assert seen == ["requests", "events", "nodes", "models"]
        await c.press("shift+tab")
        assert c.app.focused is c.app.fleet.nodes
        await c.press("j")
        assert c.app.fleet.nodes.selected == "boreas"
        assert c.app.fleet.models.cursor == 0


async def test_on_a_small_screen_nodes_take_the_place_of_models() -> None:
    async with console(fleets.big(), size=(60, 16)) as c:
        assert visible_panels(c) == {"models", "events"}
        await c.press("shift+tab")
        assert visible_panels(c) == {"nodes", "events"}
        assert "atlas" in c.text("#nodes")


async def test_load_on_the_best_node_takes_two_keys() -> None:
    async with console(fleets.big()) as c:
        await c.press("G", "l")
        assert isinstance(c.app.screen, LoadDialog)
        await c.press("enter")
        await c.until(lambda: c.asked() == ["load"])
        action = c.gateway.actions[0][1]
        assert (action.model, action.node, action.wait) == (
            "nomic-embed-v2",
            None,
            False,
        )
        assert "(console)" in action.by


async def test_load_on_a_chosen_node() -> None:
    async with console(fleets.big()) as c:
        await c.select("deepseek-r1-32b")
        await c.press("l", "j", "j", "enter")
        await c.until(lambda: c.asked() == ["load"])
        assert c.gateway.actions[0][1].node == "boreas"


async def test_escape_loads_nothing() -> None:
    async with console(fleets.big()) as c:
        await c.press("G", "l", "escape")
        await c.pilot.pause()
        assert c.app.screen is c.app.fleet
        assert c.asked() == []


async def test_a_load_is_pending_until_the_gateway_confirms() -> None:
    async with console(fleets.big()) as c:
        await c.press("G", "l", "enter")
        await c.until(lambda: "loading" in row_of(c, "nomic-embed-v2"))
        done = Operation(
            id="op-1", kind="load", model="nomic-embed-v2", state=OperationState.DONE
        )
        ready = fleets.model("nomic-embed-v2", ModelState.READY, "castor")
        c.gateway.delta(FleetDelta(operations=[done], models=[ready]))
        await c.until(lambda: "ready" in row_of(c, "nomic-embed-v2"))
        assert not c.app.store.pending


async def test_a_refused_load_says_why_and_is_not_pending() -> None:
    async with console(fleets.big()) as c:
        c.gateway.refusal = "no node has 14.6G free"
        await c.press("G", "l", "enter")
        await c.until(lambda: "no node has 14.6G free" in c.key_line())
        await c.until(lambda: "unloaded" in row_of(c, "nomic-embed-v2"))


async def test_unload_of_an_idle_model_asks_on_one_line() -> None:
    async with console(fleets.big()) as c:
        await c.select("phi-4-14b")
        await c.press("u")
        assert "unload phi-4-14b from castor?" in c.key_line()
        assert c.asked() == []
        await c.press("y")
        await c.until(lambda: c.asked() == ["unload"])
        assert c.gateway.actions[0][1].drain_s is None


@pytest.mark.parametrize("key", ["n", "escape", "j", "u"])
async def test_anything_but_y_is_a_no(key: str) -> None:
    async with console(fleets.big()) as c:
        await c.select("phi-4-14b")
        await c.press("u", key, "y")
        await c.pilot.pause()
        assert c.asked() == []
        assert "load" in c.key_line()


async def test_unload_of_a_busy_model_offers_cancel_first() -> None:
    async with console(fleets.big()) as c:
        await c.select("llama-3.3-70b")
        await c.press("u")
        assert isinstance(c.app.screen, ChoiceDialog)
        assert "1 running, 0 waiting" in c.text("#choices")
        assert "frees 41.7G" in c.text("#choices")
        await c.press("enter")
        await c.until(lambda: c.app.screen is c.app.fleet)
        assert c.asked() == []


@pytest.mark.parametrize(("key", "drain_s"), [("d", 600.0), ("x", 0.0)])
async def test_unload_drains_or_cuts_as_chosen(key: str, drain_s: float) -> None:
    async with console(fleets.big()) as c:
        await c.select("llama-3.3-70b")
        await c.press("u", key)
        await c.until(lambda: c.asked() == ["unload"])
        assert c.gateway.actions[0][1].drain_s == drain_s
        assert c.gateway.actions[0][1].node == "boreas"


async def test_pin_then_undo() -> None:
    async with console(fleets.big()) as c:
        await c.select("llama-3.3-70b")
        await c.press("p")
        await c.until(lambda: "pinned llama-3.3-70b" in c.key_line())
        await c.press("z")
        await c.until(lambda: c.asked() == ["pin", "unpin"])
        assert not c.app.can("undo")


async def test_undoing_a_load_asks_where_the_model_is_in_use_by_now() -> None:
    async with console(fleets.big()) as c:
        await c.press("G", "l", "enter")
        await c.until(lambda: c.asked() == ["load"])
        busy = fleets.model("nomic-embed-v2", ModelState.READY, "castor", running=2)
        done = Operation(
            id="op-1", kind="load", model="nomic-embed-v2", state=OperationState.DONE
        )
        c.gateway.delta(FleetDelta(operations=[done], models=[busy]))
        await c.until(lambda: "ready" in row_of(c, "nomic-embed-v2"))
        await c.press("z")
        await c.until(lambda: isinstance(c.app.screen, ChoiceDialog))
        assert "2 running, 0 waiting" in c.text("#choices")
        assert c.asked() == ["load"]
        await c.press("d")
        await c.until(lambda: c.asked() == ["load", "unload"])
        assert not c.app.can("undo")


async def test_a_load_of_what_is_loaded_asks_for_nothing_and_is_not_undone() -> None:
    async with console(fleets.big()) as c:
        await c.select("llama-3.3-70b")
        await c.press("l")
        assert "is ready already" in c.text("#places")
        await c.press("enter")
        await c.until(lambda: "is ready on boreas already" in c.key_line())
        assert c.asked() == []
        assert not c.app.can("undo")


async def test_messages_and_questions_too_long_for_the_line_are_cut_not_lost() -> None:
    name = "org/" + "a-very-long-name-" * 6 + "4.5bpw"
    fleet = fleets.big()
    fleet.models = [fleets.model(name, ModelState.READY, "castor", memory_mb=2048)]
    async with console(fleet, size=(60, 16)) as c:
        await c.press("u")
        assert c.key_line().startswith(" unload org/a-very")
        assert c.key_line().endswith("castor?  frees 2.0G  y/N")
        await c.press("n")
        c.gateway.refusal = "no"
        await c.press("p")
        await c.until(lambda: c.key_line().startswith(" pin org/a-very"))
        assert c.key_line().endswith("…")


async def test_on_a_small_screen_the_test_prompt_keeps_its_figures() -> None:
    async with console(fleets.big(), size=(60, 16)) as c:
        await c.press("t", "enter")
        await c.until(lambda: "done (stop)" in c.text("#hints"))
        assert "TTFT" in c.text("#hints")
        assert "3 tokens" in c.text("#hints")


async def test_p_unpins_what_is_pinned() -> None:
    async with console(fleets.big()) as c:
        await c.select("qwen3-32b")
        await c.until(lambda: "p unpin" in c.key_line())
        await c.press("p")
        await c.until(lambda: c.asked() == ["unpin"])


async def test_the_selection_stays_with_its_model_when_rows_move() -> None:
    async with console(fleets.big()) as c:
        await c.select("deepseek-r1-32b")
        ready = fleets.model("deepseek-r1-32b", ModelState.READY, "atlas")
        c.gateway.delta(FleetDelta(models=[ready]))
        await c.until(lambda: "ready" in row_of(c, "deepseek-r1-32b"))
        assert c.app.fleet.models.selected == "deepseek-r1-32b"


async def test_filter_narrows_as_you_type_and_escape_clears() -> None:
    async with console(fleets.big()) as c:
        await c.press("/", *"qwen")
        assert {row.key for row in c.app.fleet.models.rows} == {
            "qwen3-32b",
            "qwen3-coder-30b",
        }
        await c.press("enter")
        assert "2 of 9 · filter: qwen" in c.text("#models")
        await c.press("/", *" !coder", "enter")
        assert [row.key for row in c.app.fleet.models.rows] == ["qwen3-32b"]
        await c.press("escape")
        assert len(c.app.fleet.models.rows) == 9


async def test_the_test_prompt_shows_the_answer_and_its_speed() -> None:
    async with console(fleets.big()) as c:
        await c.press("t")
        assert isinstance(c.app.screen, TestDialog)
        await c.press("enter")
        await c.until(lambda: "done (stop)" in c.text("#hints"))
        assert c.text("#text").strip() == "there was a fox"
        assert "TTFT 0." in c.text("#hints")
        assert "3 tokens" in c.text("#hints")
        assert c.gateway.prompts[0]["model"] == "bge-m3"
        assert c.gateway.prompts[0]["messages"]


async def test_models_without_chat_get_a_completion() -> None:
    async with console(fleets.small()) as c:
        await c.press("t", "enter")
        await c.until(lambda: "done" in c.text("#hints"))
        assert c.gateway.prompts[0]["prompt"] == "Once upon a time"


async def test_an_answer_that_is_no_json_fails_in_words() -> None:
    async with console(fleets.big()) as c:
        c.gateway.nonsense = b"data: <html>\n\n"
        await c.press("t", "enter")
        await c.until(lambda: "failed" in c.text("#hints"))
        assert "there was a fox" in c.text("#answer #text")
        assert "the answer is not understood" in c.text("#answer #text")


async def test_closing_the_test_prompt_ends_the_request() -> None:
    async with console(fleets.big()) as c:
        c.gateway.pieces = ["word "] * 1000
        c.gateway.piece_pause_s = 0.02
        await c.press("t", "enter")
        await c.until(lambda: "streaming" in c.text("#hints"))
        await c.press("escape")
        await c.until(lambda: c.gateway.prompts_cut == 1)
        assert c.app.screen is c.app.fleet


async def test_dialogs_are_built_once() -> None:
    async with console(fleets.big()) as c:
        await c.press("?")
        first = c.app.screen
        assert isinstance(first, HelpDialog)
        await c.press("escape", "?")
        assert c.app.screen is first


async def test_help_and_palette_list_the_registry() -> None:
    async with console(fleets.big(), size=(100, 50)) as c:
        await c.press("?")
        shown = c.text("#keys")
        for action in ACTIONS:
            assert action.help in shown
        await c.press("escape", ":", *"pin")
        await c.press("enter")
        await c.until(lambda: c.asked() == ["unpin"])


async def test_readonly_changes_nothing() -> None:
    async with console(fleets.big(), readonly=True) as c:
        await c.press("l", "u", "p", "t", "z", "y")
        await c.pilot.pause()
        assert c.app.screen is c.app.fleet
        assert c.asked() == []
        assert "load" not in c.key_line()
        await c.press("?")
        assert "Read-only" in c.text("#keys")
        assert "Unload" not in c.text("#keys")


async def test_a_gateway_that_goes_away_and_comes_back() -> None:
    async with console(fleets.big()) as c:
        c.gateway.event(FleetEvent(seq=7, time=fleets.NOW, kind="pin", text="a pinned"))
        await c.until(lambda: "a pinned" in c.text("#events"))
        c.gateway.hang_up()
        await c.until(lambda: c.app.store.link is Link.LOST)
        await c.until(lambda: "not answering" in c.text("#status"))
        assert "closed the connection" in c.text("#problem")
        assert c.app.fleet.pulse.dimmed, "speeds are old too"
        assert c.app.store.models, "what is known stays"
        assert not c.app.can("model.load")
        assert c.app.can("move.down")
        await c.until(lambda: c.app.store.link is Link.LIVE)
        assert c.gateway.last_event_ids == [None, "7"]


async def test_names_and_events_are_never_markup() -> None:
    fleet = fleets.small()
    fleet.models[0].id = "[red]evil[/red]"
    async with console(fleet) as c:
        text = "[bold]not[/] bold \x1b[31m"
        c.gateway.event(FleetEvent(seq=9, time=fleets.NOW, kind="node", text=text))
        await c.until(lambda: "[bold]not[/] bold ·[31m" in c.text("#events"))
        assert "[red]evil[/red]" in c.text("#models")
        await c.press("t")
        assert "[red]evil[/red]" in str(
            c.app.screen.query_one(".dialog--box").border_title
        )


async def test_q_leaves_a_gateway_that_is_not_ours() -> None:
    async with console(fleets.big()) as c:
        await c.press("q")
        await c.until(lambda: c.app.return_code is not None)
        assert c.app.return_code == 0


async def test_resizing_rearranges() -> None:
    async with console(fleets.big(), size=(140, 40)) as c:
        assert c.app.fleet.charts.display
        await c.pilot.resize_terminal(80, 24)
        await c.until(lambda: not c.app.fleet.charts.display)
        assert c.app.fleet.pulse.display
        await c.pilot.resize_terminal(40, 10)
        await c.until(lambda: c.app.fleet.has_class("-small-terminal"))
        await c.pilot.resize_terminal(140, 40)
        await c.until(lambda: c.app.fleet.charts.display)
        assert c.app.fleet.models.display


def visible_panels(c: Console) -> set[str | None]:
    return {table.id for table in c.app.fleet.query(LiveTable) if table.display}


def row_of(c: Console, model: str) -> str:
    """The model's line on the screen, or its cells where it is scrolled away."""
    for row in c.app.fleet.models.rows:
        if row.key == model:
            return " ".join(text for cell in row.cells.values() for text, _ in cell)
    return ""


async def test_api_keys_are_told_and_told_again() -> None:
    async with console(fleets.big()) as c:
        c.gateway.keys = fleets.keys()
        dialog = c.app.dialog(KeysDialog)
        dialog.refresh_s = 0.05
        await c.press("K")
        await c.until(lambda: "open-webui" in c.text("#keys"))
        assert "4 keys, asked of everybody" in c.text("#keys")
        await c.press("j", "down", "k")
        assert dialog.table.cursor == 1
        c.gateway.keys.keys.pop(1)
        await c.until(lambda: "ci pipeline" not in c.text("#keys"))
        c.gateway.refusal = "the key 'x' has the scope inference"
        await c.until(lambda: "has the scope inference" in c.text("#keys"))
        c.gateway.refusal = "no " * 200
        await c.until(lambda: "no…" in c.text("#keys") or "no …" in c.text("#keys"))
        await c.press("K")
        assert c.app.screen is c.app.fleet
        assert not any(w.group == "keys" for w in c.app.workers)


async def test_a_console_elsewhere_shows_its_key() -> None:
    async with fake_gateway(fleets.small()) as gateway:
        for key in (None, "ck-alice-1"):
            async with GatewayClient(replace(gateway.target, key=key)) as client:
                await client.keys()
    assert gateway.authorizations == [None, "Bearer ck-alice-1"]


async def test_where_there_are_no_api_keys() -> None:
    async with console(fleets.small(), readonly=True) as c:
        await c.press("K")
        await c.until(lambda: "0 keys, not asked for" in c.text("#keys"))
        assert "cortex-tui keys add" in c.text("KeysDialog #hints")


async def test_api_keys_are_found_by_name() -> None:
    async with console(fleets.big()) as c:
        await c.press(":", *"keys", "enter")
        await c.until(lambda: isinstance(c.app.screen, KeysDialog))
