"""The official JavaScript SDKs and the Vercel AI SDK against a real gateway.

Each script in `js` asks one SDK for the same things and prints what it understood.
The packages (85 MB) are fetched from the npm registry once; where Node.js or the
registry is missing, these tests are skipped and say so.
"""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import AGENT, ASSISTANT, MODEL
from tests.integration.gateway.gateways import gateway_before
from tests.support import fake_neuron, npm
from tests.support.fake_neuron import FakeNeuron, Reply
from tests.support.processes import Home, Process

SCRIPTS = Path(__file__).with_name("js")
DEADLINE_S = 60.0
pytestmark = pytest.mark.timeout(400)  # The first test installs the packages.


@dataclass(frozen=True, slots=True)
class Client:
    """One SDK in one dialect."""

    command: str
    """Script and arguments."""
    asks: frozenset[str]
    """What the script asks for beyond what all do."""
    length: str = "length"
    """How it says that an answer was cut at the limit."""
    called: str = "tool-calls"
    """How it says that an answer is a call."""
    errors: tuple[str, str] = ("APICallError", "APICallError")
    """What it throws at a 400 and at a 404."""


_OWN = ("BadRequestError", "NotFoundError")
_TOOLS = frozenset({"tools", "structured"})
CLIENTS = [
    Client("openai-chat", _TOOLS | {"models"}, "length", "tool_calls", _OWN),
    Client("openai-completions", frozenset(), errors=_OWN),
    Client(
        "openai-responses", _TOOLS | {"counted"}, "max_output_tokens", "completed", _OWN
    ),
    Client(
        "anthropic-messages",
        _TOOLS | {"models", "counted"},
        "max_tokens",
        "tool_use",
        _OWN,
    ),
    Client("ai openai-chat", _TOOLS),
    Client("ai openai-compatible", _TOOLS),
    Client("ai openai-responses", _TOOLS),
    Client("ai anthropic", _TOOLS),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a script's request came to."""

    returned: Any = None
    threw: Any = None

    @property
    def value(self) -> Any:
        assert self.threw is None, self.threw
        return self.returned


class Scripts:
    """The scripts beside their packages, each run once when first asked for."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._environ = {"GATEWAY_URL": url, "GATEWAY_MODEL": ASSISTANT}
        self._outcomes: dict[str, dict[str, Outcome]] = {}

    def outcome(self, client: Client, name: str) -> Outcome:
        """What became of that of its requests."""
        if client.command not in self._outcomes:
            self._outcomes[client.command] = asyncio.run(
                outcomes(self._folder, client, self._environ)
            )
        return self._outcomes[client.command][name]


async def outcomes(
    folder: Path, client: Client, environ: dict[str, str]
) -> dict[str, Outcome]:
    """Run a client's script there."""
    script, *arguments = client.command.split()
    process = await asyncio.create_subprocess_exec(
        npm.node(),
        f"{script}.mjs",
        *arguments,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, err) == (0, b"")
    return {name: Outcome(**each) for name, each in json.loads(out).items()}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, where they find their packages."""
    packages = npm.locked_packages(SCRIPTS)
    folder = tmp_path_factory.mktemp("js")
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(packages)
    return folder


@pytest.fixture(scope="session")
def scripts(folder: Path, gateway: Process) -> Scripts:
    return Scripts(folder, gateway.url)


def clients(ask: str | None = None) -> pytest.MarkDecorator:
    """Those that ask for this, or all."""
    those = [each for each in CLIENTS if ask is None or ask in each.asks]
    return pytest.mark.parametrize("client", those, ids=lambda each: each.command)


@clients("models")
def test_lists_the_models(client: Client, scripts: Scripts) -> None:
    assert {*scripts.outcome(client, "models").value} == {AGENT, ASSISTANT, MODEL}


@clients()
def test_streams_the_words_of_the_whole_answer(
    client: Client, scripts: Scripts
) -> None:
    whole = scripts.outcome(client, "chat").value
    streamed = scripts.outcome(client, "stream").value
    assert len(whole["text"].split()) > 20
    assert (whole["finish"], whole["completion"]) == (client.length, 48)
    assert 0 < whole["prompt"] < 40
    assert streamed.pop("pieces") > 1  # On a busy machine, tokens come together.
    assert streamed == whole


@clients("tools")
def test_a_tool_is_called_and_its_result_read(client: Client, scripts: Scripts) -> None:
    rounds = scripts.outcome(client, "tools").value
    for call in (rounds["called"], rounds["streamed"]):
        assert (call["name"], call["finish"]) == ("clock", client.called)
        assert call["arguments"]["zone"] in ("utc", "cet")
    answered = rounds["answered"]
    assert answered["text"]
    assert answered["finish"] == client.length
    # The call and its result are in the prompt.
    assert answered["prompt"] > scripts.outcome(client, "chat").value["prompt"] + 20


@clients("structured")
def test_an_answer_satisfies_its_schema(client: Client, scripts: Scripts) -> None:
    answer = scripts.outcome(client, "structured").value
    assert [*answer] == ["happy"]
    assert isinstance(answer["happy"], bool)


@clients("counted")
def test_what_is_counted_is_what_is_charged(client: Client, scripts: Scripts) -> None:
    tokens = scripts.outcome(client, "counted").value
    assert tokens["counted"] == tokens["charged"] > 0


@clients()
def test_errors_are_told_by_their_own_names(client: Client, scripts: Scripts) -> None:
    refused, unknown = client.errors
    error = scripts.outcome(client, "refused").threw
    assert (error["name"], error["status"]) == (refused, 400)
    assert "top_p" in error["message"]
    assert "invalid_request_error" in json.dumps(error["body"])
    error = scripts.outcome(client, "unknown").threw
    assert (error["name"], error["status"]) == (unknown, 404)
    assert "nope" in error["message"]
    assert MODEL in error["message"]


@clients()
def test_one_that_leaves_ends_its_request(
    client: Client, scripts: Scripts, gateway: Process
) -> None:
    id_ = scripts.outcome(client, "cancelled").value
    deadline = time.monotonic() + 10
    while f"request id={id_} " not in gateway.log_text():
        assert time.monotonic() < deadline, "the request has not ended"
        time.sleep(0.05)
    log = gateway.log_text()
    (line,) = [each for each in log.splitlines() if f"request id={id_} " in each]
    assert "outcome=client_gone" in line


@clients()
@pytest.mark.parametrize("breaks", [fake_neuron.dies_after, fake_neuron.ends_after])
async def test_a_stream_that_breaks_off_is_an_error(
    client: Client, breaks: Callable[[bytes], Reply], folder: Path, home: Home
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as before,
    ):
        fake.reply = breaks(fake_neuron.token("Once"))
        url = str(before.gateway.url)
        environ = {"GATEWAY_URL": url, "GATEWAY_MODEL": "m", "ONLY": "stream"}
        outcome = (await outcomes(folder, client, environ))["stream"]
    if outcome.threw is not None:
        assert outcome.threw["name"] == "APIError"
        assert "stopped in the middle" in outcome.threw["message"]
    else:  # Others give what had come, and say how it ended.
        assert outcome.returned["text"] == "Once"
        assert outcome.returned["finish"] in ("error", "failed")
