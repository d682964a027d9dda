"""What every command line does about output that cannot be written."""

import os
import sys
from collections.abc import Callable

OK = 0
FAILED = 1


def run_to_the_end(command: str, run: Callable[[], int]) -> int:
    """`run`, and the exit code that is right once its output has been written.

    A reader that left (`| head`) is no error; a full disk is one, and is said.
    """
    try:
        try:
            return run()
        finally:
            # Now rather than at exit, where nobody could catch what it raises.
            if sys.stdout is not None:  # It may have been closed before the start.
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return OK
    except OSError as error:
        _discard_output()
        sys.stderr.write(f"{command}: {error.strerror or error}\n")
        return FAILED


def _discard_output() -> None:
    """What is still to be written would fail again, at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
