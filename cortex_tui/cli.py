"""The `cortex-tui` command.

Every import that costs something is deferred: `--serve` and the one-shot commands run
without Textual, and the console draws before it has loaded what talks to the network.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cortex_tui.format import Glyphs, glyphs
from cortex_tui.target import Target, TargetError, parse
from neuron.protocol.command_line import run_to_the_end

OK = 0
REFUSED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

DESCRIPTION = """\
Without a command: the console. It attaches to the gateway that runs on this host, or
starts one; `q` leaves it running."""
EXIT_CODES = (
    "exit codes: 0 ok, 1 refused, 2 usage or configuration, 3 nobody answers, "
    "130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code."""
    try:
        return run_to_the_end("cortex-tui", lambda: _main(argv))
    except KeyboardInterrupt:
        return INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check_combination(parser, arguments)
    if arguments.command == "connect":
        _check_connect(parser, arguments)
    return _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cortex-tui", description=DESCRIPTION, epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--attach",
        metavar="URL",
        type=_target,
        help="a gateway elsewhere",
    )
    parser.add_argument(
        "--readonly",
        action="store_true",
        help="leave out what changes things",
    )
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII only")
    serve = parser.add_argument_group("gateway in the foreground")
    serve.add_argument("--serve", action="store_true", help="run it, without a console")
    serve.add_argument("--listen", metavar="HOST:PORT", help="default: 127.0.0.1:31313")
    serve.add_argument("--config", metavar="FILE", type=Path, help="cortex.toml to use")
    serve.add_argument(
        "--announce", metavar="FILE", type=Path, help="where to say that it listens"
    )
    serve.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="default: info",
    )
    _add_commands(parser)
    return parser


def _add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="COMMAND"
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--attach", metavar="URL", type=_target, default=argparse.SUPPRESS,
        help="a gateway elsewhere",
    )  # fmt: skip
    shared.add_argument("--key", help="for a gateway that requires one; or CORTEX_KEY")

    status = commands.add_parser("status", parents=[shared], help="the fleet, once")
    how = status.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="the whole snapshot")
    how.add_argument("--watch", action="store_true", help="again every 2 s")

    models = commands.add_parser("models", parents=[shared], help="every model")
    models.add_argument("--json", action="store_true", help="the models' wire form")

    load = commands.add_parser("load", parents=[shared], help="load a model")
    load.add_argument("model")
    load.add_argument("--node", help="default: the best one")
    load.add_argument("--no-wait", action="store_true", help="do not wait for the end")

    unload = commands.add_parser("unload", parents=[shared], help="unload a model")
    unload.add_argument("model")
    unload.add_argument("--node", help="default: wherever it is")
    unload.add_argument(
        "--no-wait", action="store_true", help="do not wait for the end"
    )

    for verb, help_ in (("pin", "never evict a model"), ("unpin", "let it be evicted")):
        pin = commands.add_parser(verb, parents=[shared], help=help_)
        pin.add_argument("model")

    connect = commands.add_parser(
        "connect", parents=[shared], help="configure a client for this gateway"
    )
    connect.add_argument("client", nargs="?", help="without one: which there are")
    connect.add_argument("--model", help="default: a pinned one, or a loaded one")
    connect.add_argument(
        "--write", action="store_true", help="merge into the client's own files"
    )
    commands.add_parser("stop", help="stop the gateway of this host, gracefully")


def _target(text: str) -> Target:
    try:
        return parse(text)
    except TargetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _check_combination(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    """Refuse what would otherwise be silently ignored."""
    if arguments.serve and (arguments.command or arguments.attach):
        parser.error("--serve goes with neither a command nor --attach")
    if (arguments.command or arguments.serve) and arguments.readonly:
        parser.error("--readonly belongs to the console")
    if arguments.serve and arguments.ascii:
        parser.error("--ascii is for what draws; --serve does not")
    if arguments.command == "stop" and arguments.attach:
        parser.error("stop ends the gateway of this host; --attach has no say in it")
    if not arguments.serve:
        for name in ("listen", "announce", "log_level"):
            if getattr(arguments, name) is not None:
                parser.error(f"--{name.replace('_', '-')} needs --serve")
    if arguments.config and (arguments.command or arguments.attach):
        parser.error("--config is for a gateway that is started here")


def _check_connect(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    if arguments.client is None:
        for name in ("model", "write", "attach", "key"):
            if getattr(arguments, name):
                parser.error(f"--{name} needs a client; `connect` alone lists them")
    elif arguments.attach and arguments.attach.socket:
        parser.error("clients need a URL; a socket is for the console alone")


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

    app = CortexApp(
        Options(
            attach=arguments.attach,
            config=arguments.config,
            readonly=arguments.readonly,
            ascii_only=arguments.ascii or not _speaks_unicode(),
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
        where = _where(arguments)
        return _command(arguments, where, glyphs(_plain_glyphs(arguments)))
    except Unreachable as error:
        return _fail(UNREACHABLE, str(error))
    except Refused as error:
        return _fail(REFUSED, str(error))


def _connect(arguments: argparse.Namespace) -> int:
    from cortex_tui.connect import command

    if arguments.client is None:
        print(command.listing())
        return OK
    client = command.find(arguments.client)
    if client is None:
        unknown = f"no client '{arguments.client}'"
        return _fail(USAGE, f"{unknown}; `cortex-tui connect` lists them")
    do = command.write if arguments.write else command.show
    try:
        done = do(client, _where(arguments), arguments.model)
    except command.WriteError as error:
        return _fail(REFUSED, str(error))
    print(done.text)
    for note in done.notes:
        print(f"cortex-tui: {note}", file=sys.stderr)
    return OK


def _where(arguments: argparse.Namespace) -> Target:
    """The gateway to ask, with the key to show.

    Raises:
        Unreachable: none is named, and none runs here.
        Refused: the key cannot be one.
    """
    from cortex_tui.plain_http import Refused

    key = arguments.key or os.environ.get("CORTEX_KEY") or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise Refused("a key has ASCII characters only, without line breaks")
    return replace(arguments.attach or _local(), key=key)


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
    from cortex_tui import local_gateway
    from cortex_tui.plain_http import Unreachable

    announcement = local_gateway.announced()
    if announcement is None:
        raise Unreachable(
            "no gateway runs on this host; start one with `cortex-tui` or "
            "`cortex-tui --serve`, or name another with --attach URL"
        )
    return local_gateway.target_of(announcement)


def _plain_glyphs(arguments: argparse.Namespace) -> bool:
    return bool(arguments.ascii) or not _speaks_unicode()


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _fail(code: int, message: str) -> int:
    print(f"cortex-tui: {message}", file=sys.stderr)
    return code
