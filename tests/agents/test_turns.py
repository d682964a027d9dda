"""Coding agents, one turn each, against a real gateway and neuron.

They get an empty home and nothing of this environment, and reach loopback alone.
"""

import re
import time
from pathlib import Path

import pytest

from tests.agents import programs
from tests.agents.agents import AGENTS, Agent
from tests.agents.recorder import Asked, recording
from tests.agents.shell import TURN_TIMEOUT_S, Shell, nothing_left
from tests.support.long_context import LONG_CONTEXT
from tests.support.processes import Process

pytestmark = [
    pytest.mark.agents,
    pytest.mark.timeout(programs.INSTALL_TIMEOUT_S + 2 * TURN_TIMEOUT_S),
]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda each: each.name)
def test_a_turn_ends_well(
    agent: Agent, gateway: Process, key: str, tmp_path: Path
) -> None:
    program = agent.program()
    with recording(gateway.url) as recorder, nothing_left(tmp_path):
        shell = Shell(agent, program, recorder.url, key, tmp_path)
        shell.configure()
        recorder.asked.clear()
        turn = agent.read(shell.turn())
    asked = recorder.asked
    assert [each.refusal for each in asked if each.refusal] == []
    assert {str(each) for each in asked} - {"HEAD /"} == agent.asks
    posted = [each for each in asked if each.method == "POST"]
    assert {each.body["model"] for each in posted} - {agent.small} == {agent.model}
    main = max(posted, key=lambda each: len(each.content))
    assert len(main.content) >= agent.size
    tools = main.body.get("tools", ())
    assert len(tools) >= agent.tools
    assert {tool["type"] for tool in tools if "type" in tool} == agent.kinds
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
