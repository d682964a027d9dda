"""`python -m services.gateway`."""

import argparse
import sys
from pathlib import Path

from services.gateway.server import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.gateway")
    parser.add_argument("--config", type=Path, help="cortex.toml to use")
    parser.add_argument("--listen", metavar="HOST:PORT", help="overrides [gateway]")
    parser.add_argument("--announce", type=Path, help="file that says where it listens")
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
    )
    arguments = parser.parse_args()
    return run(
        config=arguments.config,
        listen=arguments.listen,
        announce=arguments.announce,
        log_level=arguments.log_level,
    )


if __name__ == "__main__":
    sys.exit(main())
