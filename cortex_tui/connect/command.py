"""`cortex-tui connect [CLIENT]`: what to print, and what to write."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cortex_tui.connect import gateway
from cortex_tui.connect.client import Client, Connection, Environment, Folders
from cortex_tui.connect.clients import CLIENTS
from cortex_tui.connect.writing import WriteError, plan
from cortex_tui.outcome import Outcome
from cortex_tui.target import Target

_SHOWN: Final = Folders(Path("~"))


def listing() -> str:
    """The clients, one line each."""
    width = max(len(client.id) for client in CLIENTS)
    to = Connection("http://127.0.0.1:31313", "MODEL")
    return "\n".join(
        f"{client.id:<{width}}  {client.name}: {', or '.join(_ways(client, to))}"
        for client in CLIENTS
    )


def _ways(client: Client, to: Connection) -> Iterator[str]:
    if client.environment is not None:
        yield next(iter(client.environment(to)))
    if client.program is not None:
        yield client.program(to).partition("\n")[0].partition(" -")[0]
    if client.files is not None:
        yield f"--write {client.files(to, _SHOWN)[0].path}"


def run(client: Client, where: Target, model: str | None, *, write: bool) -> Outcome:
    """The client's configuration, printed or merged into its files; and notes on it.

    Raises:
        Unreachable: nobody answers there.
        Refused: the key or the model is not accepted, or there is no model.
        WriteError: as of `merge_files`.
    """
    answer = gateway.ask(where, model)
    do = merge_files if write else configuration
    folders = Folders(Path.home(), os.environ)
    return Outcome(do(client, answer.connection, folders), _notes(client, answer))


def _notes(client: Client, answer: gateway.Answer) -> tuple[str, ...]:
    if answer.connection.tools or not client.needs_tools:
        return answer.notes
    model = answer.connection.model
    return (*answer.notes, f"{model} cannot call tools, and {client.name} needs them")


def configuration(client: Client, to: Connection, where: Folders) -> str:
    """What to do or to save, as a text of its own language."""
    if client.program is not None:
        return client.program(to).rstrip("\n")
    return "\n".join(_lines(client, to, where))


def _lines(client: Client, to: Connection, where: Folders) -> Iterator[str]:
    files = client.files(to, where) if client.files else ()
    if client.environment is not None:
        yield from _exports(client.environment(to))
        if files:
            paths = " and ".join(str(file.path) for file in files)
            yield f"# or for good, in {paths}: --write"
    else:
        for file in files:
            yield f"# {file.path}"
            yield file.text
    yield from _beside(client, to)
    yield from _start(client, to)


def merge_files(client: Client, to: Connection, where: Folders) -> str:
    """Write the client's files, and say what was changed and what is left to do.

    Raises:
        WriteError: it has no files, or one of them cannot be read or added to, and then
            none is changed; or one cannot be written.
    """
    if client.files is None:
        raise WriteError(
            f"{client.name} has no settings file that could be written; use what "
            f"`cortex-tui connect {client.id}` prints"
        )
    plans = [plan(file, to.key) for file in client.files(to, where)]
    for each in plans:
        each.carry_out()
    reports = [each.report for each in plans]
    return "\n".join([*reports, *_beside(client, to), *_start(client, to)])


def _beside(client: Client, to: Connection) -> Iterator[str]:
    if client.beside is not None:
        yield from _exports(client.beside(to))


def _start(client: Client, to: Connection) -> Iterator[str]:
    if client.start is not None:
        yield f"# then: {client.start(to)}"


def _exports(variables: Environment) -> Iterator[str]:
    for name, value in variables.items():
        yield f"export {name}={shlex.quote(value)}"
