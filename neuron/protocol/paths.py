"""The user's folders, by the platform's own rules (XDG on Linux)."""

import os
import tempfile
from pathlib import Path

import platformdirs

_APP = "cortex"
SYSTEM_CONFIG_DIR = Path("/etc/cortex")


def config_dir() -> Path:
    """Where cortex.toml, models.toml and neuron.toml are looked for."""
    return Path(platformdirs.user_config_dir(_APP, appauthor=False))


def data_dir() -> Path:
    """Where models are kept by default."""
    return Path(platformdirs.user_data_dir(_APP, appauthor=False))


def state_dir() -> Path:
    """Where what was learned while running is kept; it may be lost."""
    return Path(platformdirs.user_state_dir(_APP, appauthor=False))


def log_dir() -> Path:
    """Where background processes write their logs; created."""
    path = Path(platformdirs.user_log_dir(_APP, appauthor=False))
    path.mkdir(parents=True, exist_ok=True)
    return path


def runtime_dir() -> Path:
    """Where sockets, locks and announcements live; created, private to this user.

    `$XDG_RUNTIME_DIR/cortex`, or a folder of the user's own under the temporary one
    where no session manager provides that. Short, because a UNIX socket's path is
    limited to 107 bytes.

    Raises:
        PermissionError: the folder belongs to somebody else.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    default = f"{tempfile.gettempdir()}/{_APP}-{os.getuid()}"
    path = Path(base) / _APP if base else Path(default)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.lstat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user")
    path.chmod(0o700)
    return path
