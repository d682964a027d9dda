"""What a build of the extension would be here, or what keeps it from starting."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from neuron.engines.exllamav2.host import extension
from neuron.engines.exllamav2.host.build import Build, default_jobs, list_sources
from neuron.engines.exllamav2.host.extension import Key
from neuron.engines.exllamav2.host.gpus import Gpus, find_gpus
from neuron.engines.exllamav2.host.installed import (
    EXLLAMAV2_VERSION,
    INSTALL,
    TorchBuild,
    package_folder,
    release,
    torch_build,
    version_of,
)
from neuron.engines.exllamav2.host.toolchain import Missing, Toolkit, find_toolchain

DISK_BYTES: Final = 1024**3
"""What a build needs for a while; its objects take 85 MB for each architecture."""


class LackingError(Exception):
    """Something is missing; `missing` has all of it, with how to mend each."""

    def __init__(self, *missing: Missing) -> None:
        super().__init__("; ".join(each.what for each in missing))
        self.missing = missing


def plan_build(
    architectures: Sequence[str] = (),
    jobs: int | None = None,
    memory_available: int | None = None,
) -> Build:
    """The build for these compute capabilities, or for those of this host's GPUs.

    Raises:
        LackingError: something is missing.
        BuildError: exllamav2's files are not as they should be.
    """
    torch = torch_build()
    package = package_folder("exllamav2")
    lacking = list(_packages(torch, package))
    if torch is None or torch.cuda is None or package is None:
        raise LackingError(*lacking)
    gpus = find_gpus()
    wanted = sorted(set(architectures or gpus.architectures), key=_number)
    toolchain = find_toolchain(torch)
    lacking += [*_targets(wanted, gpus, toolchain.toolkit), *toolchain.missing]
    root = extension.extensions_dir()
    lacking += _disk(root)
    if lacking:
        raise LackingError(*lacking)
    return Build(
        key=Key.of(torch, wanted),
        sources=list_sources(package),
        toolchain=toolchain,
        jobs=jobs or default_jobs(memory_available),
        root=root,
        include=package / extension.MODULE,
    )


def _packages(torch: TorchBuild | None, package: Path | None) -> Iterator[Missing]:
    if torch is None:
        yield Missing("torch", INSTALL)
    elif torch.cuda is None:
        yield Missing(f"a torch for CUDA (found {torch.name})", INSTALL)
    version = version_of("exllamav2")
    if version is None or package is None:
        yield Missing("exllamav2", INSTALL)
    elif release(version) != EXLLAMAV2_VERSION:
        yield Missing(f"exllamav2 {EXLLAMAV2_VERSION} (found {version})", INSTALL)


def _targets(
    wanted: Sequence[str], gpus: Gpus, toolkit: Toolkit | None
) -> Iterator[Missing]:
    if not wanted:
        yield Missing(
            f"a GPU to build for ({gpus.problem})",
            "name its compute capability, such as --arch 9.0",
        )
    for each in wanted:
        if toolkit and each not in toolkit.architectures:
            known = ", ".join(sorted(toolkit.architectures, key=_number))
            yield Missing(
                f"an nvcc for compute capability {each} "
                f"({toolkit.version_text} has {known})",
                "name others with --arch, or install a toolkit that has it",
            )


def _number(architecture: str) -> float:
    return float(architecture)


def _disk(root: Path) -> Iterator[Missing]:
    folder = next(each for each in (root, *root.parents) if each.exists())
    if shutil.disk_usage(folder).free < DISK_BYTES:
        yield Missing(
            f"1 GiB of free disk space in {folder}",
            f"free some, or set {extension.FOLDER_VARIABLE} to another folder",
        )
