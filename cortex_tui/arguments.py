"""What `cortex-tui` may be told on its command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cortex_tui.target import Target, TargetError, parse

SCOPES: Final = ("inference", "read-only", "admin")
_KEY: Final = "for a gateway elsewhere that asks for one; or CORTEX_KEY"
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
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
    commands: Commands = parser.add_subparsers(
        dest="command", title="commands", metavar="COMMAND"
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--attach", metavar="URL", type=_target, default=argparse.SUPPRESS,
        help="a gateway elsewhere",
    )  # fmt: skip
    shared.add_argument("--key", default=argparse.SUPPRESS, help=_KEY)

    _add_fleet(commands, shared)
    _add_connect(commands, shared)
    _add_keys(commands, shared)
    commands.add_parser("stop", help="stop the gateway of this host, gracefully")


def _add_fleet(commands: Commands, shared: argparse.ArgumentParser) -> None:
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


def _add_connect(commands: Commands, shared: argparse.ArgumentParser) -> None:
    connect = commands.add_parser(
        "connect", parents=[shared], help="configure a client for this gateway"
    )
    connect.add_argument("client", nargs="?", help="without one: which there are")
    connect.add_argument("--model", help="default: a pinned one, or a loaded one")
    connect.add_argument(
        "--write", action="store_true", help="merge into the client's own files"
    )


def _add_keys(commands: Commands, shared: argparse.ArgumentParser) -> None:
    keys = commands.add_parser("keys", help="who may use the gateway, and how much")
    verbs = keys.add_subparsers(dest="verb", metavar="VERB", required=True)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--config", metavar="FILE", type=Path, default=argparse.SUPPRESS,
        help="cortex.toml of the gateway; the keys are beside it",
    )  # fmt: skip

    _add_key_options(
        verbs.add_parser("add", parents=[where], help="make a key, and print it once")
    )
    list_ = verbs.add_parser(
        "list", parents=[where, shared], help="every key, and what it has spent"
    )
    list_.add_argument("--json", action="store_true", help="the admin API's own object")

    revoke = verbs.add_parser("revoke", parents=[where], help="refuse a key for good")
    revoke.add_argument("name", help="or its id")

    rotate = verbs.add_parser(
        "rotate", parents=[where], help="replace a key's secret, and print the new one"
    )
    rotate.add_argument("name", help="or its id")
    rotate.add_argument(
        "--grace", metavar="SPAN", help="how long the old one is good still, as in 24h"
    )


def _add_key_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("name", help="whose it is")
    add.add_argument("--scope", choices=SCOPES, help="default: inference")
    add.add_argument("--models", metavar="GLOB[,GLOB]", help="default: all")
    add.add_argument("--rpm", metavar="N", type=int, help="requests per minute")
    add.add_argument("--tpm", metavar="N", type=int, help="tokens per minute")
    add.add_argument(
        "--budget-tokens", metavar="N", type=int, help="tokens in a window"
    )
    add.add_argument("--budget-cost", metavar="X", type=float, help="cost in a window")
    add.add_argument("--window", metavar="SPAN", help="12h, 1d, 4w; default: 30d")
    add.add_argument(
        "--priority", metavar="N", type=int, help="default: 0; higher is served first"
    )


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
