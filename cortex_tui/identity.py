"""Who asks: how an operator appears in the gateway's audit trail."""

import getpass
import os
import socket


def operator_name(via: str) -> str:
    """`user@host (via)`; the number stands for a user who has no name here."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} ({via})"
