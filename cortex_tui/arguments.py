"""What `cortex-tui` may be told on its command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cortex_tui import keys_command
from cortex_tui.target import Target, TargetError, parse

_KEY: Final = "for a gateway elsewhere that asks for one; or CORTEX_KEY"
DESCRIPTION = """\
Without a command: the console. It attaches to the gateway that runs on this host, or
starts one; `q` leaves it running."""
EXIT_CODES = (
    "exit codes: 0 ok, 1 refused, 2 usage or configuration, 3 nobody answers, "
    "130 interrupted"
)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; exits with a message where they cannot be meant."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check_combination(parser, arguments)
    if arguments.command == "connect":
        _check_connect(parser, arguments)
    if arguments.command == "keys":
        _check_keys(parser, arguments)
    return arguments


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
    parser.add_argument("--key", help=_KEY)
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
    shared.add_argument("--key", default=argparse.SUPPRESS, help=_KEY)

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
    keys_command.add_parser(commands, shared)
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
    if arguments.key and not arguments.attach and arguments.command != "connect":
        parser.error("--key needs --attach; the gateway of this host asks for none")
    of_a_file = arguments.command == "keys" and not arguments.attach
    if arguments.config and (arguments.command or arguments.attach) and not of_a_file:
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


def _check_keys(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.attach and arguments.verb != "list":
        parser.error("keys are made and changed on the gateway's own host")
