"""Coding agents, one turn each, against a real gateway and neuron.

They get an empty home and nothing of this environment, and reach loopback alone.
"""

import json
import re
import time
from pathlib import Path

import pytest

from tests.agents import programs
from tests.agents.agents import AGENTS, COUNTING, Agent
from tests.agents.recorder import Asked, recording
from tests.agents.shell import TURN_TIMEOUT_S, Shell, nothing_left
from tests.support.long_context import LONG_CONTEXT
from tests.support.processes import Process

pytestmark = [
    pytest.mark.agents,
    pytest.mark.timeout(programs.INSTALL_TIMEOUT_S + 2 * TURN_TIMEOUT_S),
]


def turn_of(
    agent: Agent, gateway: Process, key: str, home: Path, *, force: str | None = None
) -> tuple[str, list[Asked]]:
    """What one turn printed, and what was asked for it; nothing was refused."""
    program = agent.program()
    with recording(gateway.url) as recorder, nothing_left(home):
        shell = Shell(agent, program, recorder.url, key, home)
        shell.configure()
        recorder.asked.clear()
        recorder.force = force
        output = shell.turn()
    assert [each.refusal for each in recorder.asked if each.refusal] == []
    assert {str(each) for each in recorder.asked} - {"HEAD /"} == agent.asks
    return output, [each for each in recorder.asked if each.method == "POST"]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda each: each.name)
def test_a_turn_ends_well(
    agent: Agent, gateway: Process, key: str, tmp_path: Path
) -> None:
    output, asked = turn_of(agent, gateway, key, tmp_path)
    assert {each.body["model"] for each in asked} - {agent.small} == {agent.model}
    main = max(asked, key=lambda each: len(each.content))
    assert len(main.content) >= agent.size
    tools = main.body.get("tools", ())
    assert len(tools) >= agent.tools
    assert {tool["type"] for tool in tools if "type" in tool} == agent.kinds
    turn = agent.read(output)
    assert _squeezed(main.text())
    assert _squeezed(main.text()) in _squeezed(turn.text)
    end = _end(main, gateway)
    assert (end["status"], end["outcome"], end["model"]) == (
        "200",
        "done",
        LONG_CONTEXT,
    )
    if turn.prompt is not None:
        told = (str(turn.prompt), str(turn.completion))
        assert (end["prompt"], end["completion"]) == told


@pytest.mark.parametrize(
    "agent", [each for each in AGENTS if each.reads], ids=lambda each: each.name
)
def test_a_tool_is_called_and_its_result_read(
    agent: Agent, gateway: Process, key: str, tmp_path: Path
) -> None:
    """The agent runs what the model was made to call, and tells it of the result."""
    output, asked = turn_of(agent, gateway, key, tmp_path, force=agent.reads)
    first, *_, last = [each for each in asked if each.body.get("tools")]
    (call,) = {*re.findall(rb'"((?:call|toolu)_[0-9a-f]+)"', first.answer)}
    assert call in last.content
    assert _squeezed(last.text())
    assert _squeezed(last.text()) in _squeezed(agent.read(output).text)


def test_claude_code_counts_what_fills_its_context(
    gateway: Process, key: str, tmp_path: Path
) -> None:
    _, asked = turn_of(COUNTING, gateway, key, tmp_path)
    counts = [json.loads(each.answer)["input_tokens"] for each in asked]
    assert len(counts) > 10
    assert min(counts) > 0
    assert max(counts) > 10_000  # All of its tools.


def _end(asked: Asked, gateway: Process) -> dict[str, str]:
    """What the gateway's log line says of that request."""
    deadline = time.monotonic() + 10
    while True:
        for line in gateway.log_text().splitlines():
            if f"request id={asked.request_id} " in line:
                return dict(re.findall(r"(\w+)=(\S+)", line))
        assert time.monotonic() < deadline, "the request has not ended"
        time.sleep(0.05)


def _squeezed(text: str) -> str:
    """Without white space, which agents lay out anew."""
    return "".join(text.split())
