"""The README says what is so."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cortex_tui import actions, cli
from neuron import cli as neuron_cli
from neuron.engines.exllamav2.host import extension
from neuron.engines.exllamav2.levers import PREFIX, Levers
from neuron.protocol import routes
from services import schema
from tests.gpu.results import readme
from tests.support import client_reference, config_reference
from tests.support.readme import README as FILE

README = FILE.read_text(encoding="utf-8")
ROOT = FILE.parent


def test_configuration_keys() -> None:
    assert config_reference.with_tables(README) == README, (
        "run python -m tests.support.config_reference"
    )


def test_clients() -> None:
    assert client_reference.with_table(README) == README, (
        "run python -m tests.support.client_reference"
    )


def test_results_on_a_gpu() -> None:
    assert readme.with_results(README) == README, "run python -m tests.gpu.results"


@pytest.mark.parametrize("action", actions.ACTIONS, ids=lambda action: action.id)
def test_every_key(action: actions.Action) -> None:
    table = README.partition("## The console")[2].partition("\n## ")[0]
    assert f"`{action.label}`" in table


def test_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = capsys.readouterr().out.partition("\ncommands:")[2]
    section = README.partition("## The command line")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^cortex-tui ([a-z]+)", section, re.MULTILINE))
    assert documented == set(re.findall(r"^    ([a-z]+) ", commands, re.MULTILINE))


@pytest.mark.parametrize(
    "verb", ["status", "models", "load", "unload", "pin", "unpin", "connect", "stop"]
)
def test_every_option_of_a_command(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    (line,) = re.findall(rf"^cortex-tui {verb}\b.*", README, re.MULTILINE)
    everywhere = {"--help", "--attach", "--key"}
    assert set(re.findall(r"--[a-z-]+", line)) == options - everywhere


@pytest.mark.parametrize("verb", ["add", "list", "revoke", "rotate"])
def test_every_option_for_keys(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["keys", verb, "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    elsewhere = {"--help", "--attach", "--key", "--config"}
    found = re.search(rf"^cortex-tui keys {verb}\b.*(\n +.*)*", README, re.MULTILINE)
    assert found is not None
    assert set(re.findall(r"--[a-z-]+", found[0])) == options - elsewhere


def test_every_neuron_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        neuron_cli.main(["--help"])
    commands = set(
        re.findall(r"^    ([a-z-]+) ", capsys.readouterr().out, re.MULTILINE)
    )
    section = README.partition("## The command line")[2].partition("\n## ")[0]
    assert set(re.findall(r"^neuron \[?([a-z-]+)", section, re.MULTILINE)) == commands


@pytest.mark.parametrize("command", ["build-ext", "doctor"])
def test_every_option_of_a_neuron_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        neuron_cli.main([command, "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    (line,) = re.findall(rf"^neuron {command} \[.*", README, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", line)) == options - {"--help"}


def test_extensions_are_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"`{extension.FOLDER_VARIABLE}`" in README
    for variable in (extension.FOLDER_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    folder = extension.extensions_dir().parent
    assert f"`~/{folder.relative_to(Path.home())}`" in README


@pytest.mark.parametrize(
    "route",
    sorted(
        {
            value
            for module in (routes, schema)
            for value in vars(module).values()
            if isinstance(value, str) and re.fullmatch(r"/[a-z0-9/{}_]+", value)
        }
    ),
)
def test_every_route(route: str) -> None:
    section = README.partition("## HTTP")[2].partition("\n## ")[0]
    last = route.rsplit("/", 1)[1]
    assert f"`{route}`" in section or f"`{last}`" in section or f" {route}`" in section


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / Path(target)).exists()


def test_levers_of_the_engine() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| `(\w+)` \|", README, re.MULTILINE)
    environment = {PREFIX + name: default for name, default in rows}
    assert {name.lower() for name, _ in rows} == {f.name for f in fields(Levers)}
    assert Levers.read(environment) == Levers()
