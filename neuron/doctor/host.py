"""What every engine needs of this host: memory, disk, folders, a port."""

import http.client
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from neuron.config import NeuronConfig
from neuron.daemon.hardware import read_meminfo
from neuron.doctor.report import Check, State
from neuron.protocol.address import Address
from neuron.protocol.config_file import ConfigError, Loaded

_GIB: Final = 1024**3
_LOW_DISK: Final = 20 * _GIB
"""An 8-billion-parameter model at 4 bits takes 5 GB, its original 16."""
_ASK_S: Final = 1.0


def check_host(config: Loaded[NeuronConfig] | ConfigError) -> Iterator[Check]:
    """All checks; a configuration that cannot be used is one of them."""
    yield from _memory()
    if isinstance(config, ConfigError):
        yield Check("configuration", "lacks", str(config), "correct it: README")
        return
    yield Check("configuration", "ok", str(config.path or "none; defaults apply"))
    for folder in config.config.models_dirs:
        yield check_models_folder(folder)
    yield check_port(config.config.address)


def _memory() -> Iterator[Check]:
    memory = read_meminfo()
    if memory:
        free, total = memory.get("MemAvailable", 0), memory.get("MemTotal", 0)
        yield Check("RAM", "ok", f"{_gib(free)} free of {_gib(total)}")
    limit = container_limit()
    if limit is not None:
        yield Check(
            "container", "note", f"limited to {_gib(limit)}, pinned memory included"
        )


def container_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The control group's memory limit in bytes; None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        # Version 1 says "no limit" with a number that no host has.
        if text.isdecimal() and int(text) < 2**60:
            return int(text)
    return None


def check_models_folder(folder: Path) -> Check:
    """Whether models can be read from it, and what disk is left for more."""
    if not folder.exists():
        return Check("models", "note", f"{folder} does not exist", f"mkdir -p {folder}")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return Check(
            "models", "note", f"{folder} cannot be read", f"chmod a+rx {folder}"
        )
    state: State = "ok"
    if shutil.disk_usage(folder).free < _LOW_DISK:
        state = "note"
    return Check("models", state, f"{folder}, {free_space(folder)} free")


def free_space(folder: Path) -> str:
    """On the disk that it is on, or would be."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return _gib(shutil.disk_usage(existing).free)


def check_port(address: Address) -> Check:
    """Whether the daemon could listen there, or already does."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a connection of the last one that lingers hinders none.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return Check("port", "ok", f"{address.port} is free")
    version = _neuron_at(address)
    if version:
        return Check("port", "ok", f"a neuron, {version}, serves on {address.port}")
    return Check(
        "port",
        "lacks",
        f"{address.host}, port {address.port}: {reason.lower()}",
        "stop what listens there, or set listen in neuron.toml",
    )


def _neuron_at(address: Address) -> str | None:
    """The version of the neuron that answers there."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_ASK_S)
    try:
        connection.request("GET", "/version")
        answer = json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    version = answer.get("version") if isinstance(answer, dict) else None
    return str(version) if version else None


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
