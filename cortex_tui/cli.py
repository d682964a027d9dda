"""The `cortex-tui` command.

Every import that costs something is deferred: `--serve` and the one-shot commands run
without Textual, and the console draws before it has loaded what talks to the network.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from cortex_tui.arguments import parsed
from cortex_tui.format import Glyphs, glyphs
from cortex_tui.outcome import Outcome
from cortex_tui.target import Target
from neuron.protocol.command_line import run_to_the_end

OK = 0
REFUSED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code."""
    try:
        return run_to_the_end("cortex-tui", lambda: _main(argv))
    except KeyboardInterrupt:
        return INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    return _run(parsed(argv))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.version:
        from neuron.protocol.version import build_version

        print(f"cortex-tui {build_version()}")
        return OK
    if arguments.serve:
        return _serve(arguments)
    if arguments.command == "stop":
        return _stop()
    if arguments.command:
        return _one_shot(arguments)
    return _console(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    from services.gateway.server import run

    return run(
        listen=arguments.listen,
        announce=arguments.announce,
        config=arguments.config,
        log_level=arguments.log_level or "info",
    )


def _console(arguments: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _fail(
            USAGE, "the console needs a terminal; `cortex-tui status` does without"
        )
    if os.environ.get("TERM") == "dumb":
        return _fail(
            USAGE, "TERM is `dumb`, and the console moves the cursor; "
            "`cortex-tui status` does without"
        )  # fmt: skip
    from cortex_tui.app import CortexApp, Options
    from cortex_tui.plain_http import Refused

    try:
        attach = _where(arguments) if arguments.attach else None
    except Refused as error:
        return _fail(USAGE, str(error))
    app = CortexApp(
        Options(
            attach=attach,
            config=arguments.config,
            readonly=arguments.readonly,
            ascii_only=_plain_glyphs(arguments),
        )
    )
    app.run()
    if app.farewell:
        print(app.farewell)
    return app.return_code or OK


def _stop() -> int:
    from cortex_tui import local_gateway

    try:
        announcement = local_gateway.running()
        if announcement is None:
            return _fail(UNREACHABLE, "no gateway runs on this host")
        local_gateway.stop(announcement)
    except local_gateway.LocalGatewayError as error:
        return _fail(REFUSED, str(error))
    print(f"stopped the gateway (pid {announcement.pid})")
    return OK


def _one_shot(arguments: argparse.Namespace) -> int:
    from cortex_tui.plain_http import Refused, Unreachable

    try:
        if arguments.command == "connect":
            return _connect(arguments)
        if arguments.command == "keys":
            return _keys(arguments)
        where = _where(arguments)
        return _command(arguments, where, glyphs(_plain_glyphs(arguments)))
    except Unreachable as error:
        return _fail(UNREACHABLE, str(error))
    except Refused as error:
        return _fail(REFUSED, str(error))


def _connect(arguments: argparse.Namespace) -> int:
    from cortex_tui.connect import clients, command, writing

    if arguments.client is None:
        print(command.listing())
        return OK
    client = clients.find(arguments.client)
    if client is None:
        unknown = f"no client '{arguments.client}'"
        return _fail(USAGE, f"{unknown}; `cortex-tui connect` lists them")
    where, model = _where(arguments), arguments.model
    try:
        return _tell(command.run(client, where, model, write=arguments.write))
    except writing.WriteError as error:
        return _fail(REFUSED, str(error))


def _keys(arguments: argparse.Namespace) -> int:
    from cortex_tui import keys_command

    there = _where(arguments) if arguments.attach else None
    g = glyphs(_plain_glyphs(arguments))
    try:
        return _tell(keys_command.run(arguments, _announced(), there, g))
    except keys_command.KeysError as error:
        return _fail(REFUSED, str(error))


def _where(arguments: argparse.Namespace) -> Target:
    """The gateway to ask, with the key to show.

    Raises:
        Unreachable: none is named, and none runs here.
        Refused: the key cannot be one.
    """
    return replace(arguments.attach or _local(), key=_key(arguments))


def _key(arguments: argparse.Namespace) -> str | None:
    """
    Raises:
        Refused: it cannot be one.
    """
    from cortex_tui.plain_http import Refused

    key = arguments.key or os.environ.get("CORTEX_KEY") or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise Refused("a key has ASCII characters only, without line breaks")
    return key


def _command(arguments: argparse.Namespace, where: Target, g: Glyphs) -> int:
    from cortex_tui import oneshot

    if arguments.command == "status" and arguments.watch:
        oneshot.watch(lambda: oneshot.status(where, as_json=False, g=g))
    elif arguments.command == "status":
        print(oneshot.status(where, as_json=arguments.json, g=g))
    elif arguments.command == "models":
        print(oneshot.models(where, as_json=arguments.json, g=g))
    else:
        node = getattr(arguments, "node", None)
        if getattr(arguments, "no_wait", False):
            begun = oneshot.begin(where, arguments.command, arguments.model, node)
            print(f"{begun.kind} {begun.model}: operation {begun.id} {begun.state}")
        else:
            print(oneshot.act(where, arguments.command, arguments.model, node))
    return OK


def _local() -> Target:
    """The gateway of this host.

    Raises:
        Unreachable: none has announced itself, or it is gone.
    """
    from cortex_tui.plain_http import Unreachable

    here = _announced()
    if here is None:
        raise Unreachable(
            "no gateway runs on this host; start one with `cortex-tui` or "
            "`cortex-tui --serve`, or name another with --attach URL"
        )
    return here


def _announced() -> Target | None:
    """The gateway of this host, if there is one."""
    from cortex_tui import local_gateway

    announcement = local_gateway.announced()
    return local_gateway.target_of(announcement) if announcement is not None else None


def _plain_glyphs(arguments: argparse.Namespace) -> bool:
    return bool(arguments.ascii) or not _speaks_unicode()


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _tell(outcome: Outcome) -> int:
    print(outcome.text)
    for note in outcome.notes:
        print(f"cortex-tui: {note}", file=sys.stderr)
    return OK


def _fail(code: int, message: str) -> int:
    print(f"cortex-tui: {message}", file=sys.stderr)
    return code
