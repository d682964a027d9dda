"""Clients in Python against a real gateway, neuron and worker.

Each driver in `drivers` asks one client for the same things.
"""

import importlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.clients.conftest import ASSISTANT, MODEL, tell_roles
from tests.clients.drivers.base import QUESTION, Driver
from tests.clients.gateway_log import GatewayLog
from tests.support import python_clients
from tests.support.long_context import LONG_CONTEXT, long_context_model
from tests.support.processes import Process, running_gateway, temporary_home

NEEDS = {
    "instructor": ("instructor", "anthropic"),
    "langchain": ("langchain_openai", "langchain_anthropic"),
    "litellm": ("litellm",),
    "llm": ("llm",),
    "openai_agents": ("agents",),
    "pydantic_ai": ("pydantic_ai", "anthropic"),
    "smolagents": ("smolagents",),
}
"""Drivers → the packages that they import."""
pytestmark = pytest.mark.clients


@dataclass(frozen=True, slots=True)
class Client:
    """A driver, which is imported only where its client is installed."""

    module: str
    driver: str
    asks: frozenset[str]
    """What it is asked for beyond what all are."""
    ignore: tuple[str, ...] = ()
    """What it warns of and is its own affair, as pytest's filters have it."""

    def __str__(self) -> str:
        return f"{self.module}-{self.driver}"

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        reason = python_clients.missing(*NEEDS[self.module])
        missing = pytest.mark.skipif(reason is not None, reason=str(reason))
        return [missing, *map(pytest.mark.filterwarnings, self.ignore)]

    def make(self, url: str, model: str) -> Driver:
        python_clients.require(*NEEDS[self.module])
        module = importlib.import_module(f"tests.clients.drivers.{self.module}")
        driver: Driver = getattr(module, self.driver)(url, model)
        return driver


_ALL = frozenset({"call", "cut", "long", "structured"})
_OBJECTS = frozenset({"long", "structured"})
_LITELLM = (
    "ignore:Accessing the 'model_(computed_)?fields':DeprecationWarning",
    "ignore:.*is using the `ReadOnly` qualifier:UserWarning",
)
"""It looks at whatever attributes pydantic's models have, and describes some to it in
a way that pydantic does not heed."""
CLIENTS = [
    # It takes an answer that was cut for one, or for an error.
    Client("openai_agents", "Chat", _ALL - {"cut"}),
    Client("openai_agents", "Responses", _ALL - {"cut"}),
    Client("langchain", "Chat", _ALL),
    Client("langchain", "Messages", _ALL | {"count"}),
    Client("langchain", "Responses", _ALL),
    Client("instructor", "ChatSchema", _OBJECTS),
    Client("instructor", "ChatTools", _OBJECTS),
    Client("instructor", "Messages", _OBJECTS),
    Client("instructor", "Responses", _OBJECTS),
    # Nothing in it makes a model call a tool, or tells why an answer ended; and its
    # prompt is an argument of a command.
    Client("llm", "Chat", frozenset({"structured"})),
    Client("llm", "Responses", frozenset({"structured"})),
    Client("litellm", "Messages", _ALL | {"count"}, _LITELLM),
    # Ollama's API has nothing that makes a model call a tool.
    Client("litellm", "Ollama", _ALL - {"call"}, _LITELLM),
    Client("litellm", "OpenAi", _ALL | {"count"}, _LITELLM),
    Client("litellm", "Text", frozenset({"cut", "long"}), _LITELLM),
    Client("litellm", "Vllm", _ALL, _LITELLM),
    Client("pydantic_ai", "Chat", _ALL),
    Client("pydantic_ai", "Messages", _ALL | {"count"}),
    Client("pydantic_ai", "Responses", _ALL | {"count"}),
    Client("smolagents", "Chat", _ALL - {"cut"}),
]


def clients(ask: str | None = None) -> pytest.MarkDecorator:
    """Those that are asked for this, or all."""
    those = [
        pytest.param(each, marks=each.marks, id=str(each))
        for each in CLIENTS
        if ask is None or ask in each.asks
    ]
    return pytest.mark.parametrize("client", those)


@pytest.fixture(scope="session")
def long_gateway() -> Iterator[Process]:
    """A gateway with a model whose context takes what agents send and whose answers end
    by themselves, and one whose answers are long."""
    with temporary_home() as home:
        long_context_model(home.models)
        tell_roles(home.models, ASSISTANT)
        free = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
        with running_gateway(home, environ=free) as process:
            yield process


@pytest_asyncio.fixture
async def driver(client: Client, long_gateway: Process) -> AsyncIterator[Driver]:
    driver = client.make(long_gateway.url, LONG_CONTEXT)
    yield driver
    await driver.close()


@pytest_asyncio.fixture
async def stranger(client: Client, long_gateway: Process) -> AsyncIterator[Driver]:
    """One that asks for a model which is not there."""
    driver = client.make(long_gateway.url, "nope")
    yield driver
    await driver.close()


@pytest_asyncio.fixture
async def endless(client: Client, long_gateway: Process) -> AsyncIterator[Driver]:
    """One that asks a model whose answers are long."""
    driver = client.make(long_gateway.url, ASSISTANT)
    yield driver
    await driver.close()


@pytest.fixture
def log(long_gateway: Process) -> GatewayLog:
    return GatewayLog(long_gateway)


@clients()
async def test_streams_the_words_of_the_whole_answer(
    driver: Driver, log: GatewayLog
) -> None:
    whole = await driver.chat()
    streamed = await driver.stream()
    assert whole.text
    assert streamed.text == whole.text
    for answer, ended in zip((whole, streamed), log.ended(2), strict=True):
        assert (ended.route, ended.outcome) == (driver.route, "done")
        assert ended.streamed == (answer is streamed)
        if answer is whole or driver.streams_usage:
            told = (answer.finish, answer.prompt, answer.completion)
            assert told == (driver.stop, ended.prompt, ended.completion)


@clients("cut")
async def test_an_answer_that_was_cut_says_so(driver: Driver) -> None:
    answer = await driver.chat(limit=4)
    assert (answer.finish, answer.completion) == (driver.length, 4)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@clients("call")
async def test_a_tool_is_called_and_its_result_read(
    driver: Driver, log: GatewayLog, *, streamed: bool
) -> None:
    await driver.chat()
    called = await driver.call(streamed=streamed)
    assert called.name.lower() == "tale"
    assert called.arguments["ending"] in ("happy", "sad")
    assert called.answer
    # The model has read of the question, the call and the result.
    chat, *_, last = log.ended(3)
    assert (chat.prompt or 0) + 20 < (last.prompt or 0)


@clients("long")
async def test_a_prompt_is_as_long_as_an_agents(
    driver: Driver, log: GatewayLog
) -> None:
    driver.question = "".join(f"{line}: {QUESTION}" for line in range(2000))
    answer = await driver.chat()
    (ended,) = log.ended(1)
    assert answer.text
    assert answer.prompt == ended.prompt
    assert (ended.prompt or 0) > 20_000


@clients("structured")
async def test_an_answer_satisfies_its_schema(driver: Driver, log: GatewayLog) -> None:
    mood = await driver.structured()
    assert isinstance(mood.happy, bool)
    log.ended(1)  # At the first try.


@clients("count")
async def test_what_is_counted_is_what_is_charged(driver: Driver) -> None:
    assert await driver.count() == (await driver.chat()).prompt


@clients()
async def test_a_refusal_names_the_field(driver: Driver, log: GatewayLog) -> None:
    with pytest.raises(driver.refused, match=driver.field):
        await driver.refuse()
    assert log.refused() == 400


@clients()
async def test_an_unknown_model_is_told_those_there_are(
    stranger: Driver, log: GatewayLog
) -> None:
    with pytest.raises(stranger.unknown, match=f"nope.*{MODEL}"):
        await stranger.chat()
    assert log.refused() == 404


@clients()
async def test_one_that_leaves_ends_its_request(
    endless: Driver, log: GatewayLog
) -> None:
    await endless.leave()
    (ended,) = log.ended(1)
    assert (ended.outcome, ended.route) == ("client_gone", endless.route)
