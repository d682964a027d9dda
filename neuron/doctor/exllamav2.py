"""What the exllamav2 engine needs of this host."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from neuron.doctor.host import free_space
from neuron.doctor.report import Check, EngineReport
from neuron.engines.exllamav2.host import extension, probe
from neuron.engines.exllamav2.host.gpus import NO_DRIVER
from neuron.engines.exllamav2.host.installed import torch_build
from neuron.engines.exllamav2.host.probe import Finding
from neuron.engines.exllamav2.host.toolchain import find_toolchain

DEEP_S: Final = 180.0
_DRIVER: Final = "install the NVIDIA driver of this distribution, 580 or newer"


def check_exllamav2(*, deep: bool) -> EngineReport:
    """All checks; `deep` imports the engine in a process of its own, too."""
    found = list(probe.findings())
    checks = [_check(each) for each in found]
    checks += _toolchain(built=any(f.name == "extension" and f.ok for f in found))
    if deep and all(each.ok for each in found):
        checks.append(import_backend())
    return EngineReport(probe.NAME, tuple(checks))


def _check(found: Finding) -> Check:
    mend = _DRIVER if found.detail == NO_DRIVER else found.mend
    return Check(found.name, "ok" if found.ok else "lacks", found.detail, mend)


def _toolchain(*, built: bool) -> Iterator[Check]:
    """What compiles the extension, which only who has none needs."""
    torch = torch_build()
    if torch is None or torch.cuda is None:
        return
    toolchain = find_toolchain(torch)
    if toolchain.compiler:
        yield Check("compiler", "ok", toolchain.compiler)
    if toolchain.toolkit:
        toolkit = toolchain.toolkit
        yield Check("nvcc", "ok", f"{toolkit.version_text} in {toolkit.root}")
    for each in toolchain.missing:
        why = "needed to build it again" if built else "needed to build the extension"
        yield Check("compiling", "note", f"{each.what} is missing, {why}", each.mend)
    folder = extension.extensions_dir()
    yield Check("extensions", "ok", f"kept in {folder}, {free_space(folder)} free")


def import_backend(deadline_s: float = DEEP_S) -> Check:
    """Whether the engine's modules can be imported and its GPUs be used."""
    command = [sys.executable, "-P", "-m", "neuron.engines.exllamav2.host.self_test"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check("imports", "lacks", f"not imported within {deadline_s:.0f} s")
    if done.returncode:
        # What comes before are warnings of libraries, or a traceback.
        last = done.stderr.strip().rpartition("\n")[2]
        return Check("imports", "lacks", last or f"exit status {done.returncode}")
    return Check("imports", "ok", json.loads(done.stdout.splitlines()[-1]))
