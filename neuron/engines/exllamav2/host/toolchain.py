"""What compiles the extension: C++ compiler, nvcc, CUDA's headers and runtime library.

A toolkit may lack the headers of the mathematics libraries, or be missing; NVIDIA's
wheels, which torch brings, have headers and libraries, and can have nvcc.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuron.engines.exllamav2.host.installed import TorchBuild, wheel_folders

HEADERS: Final = {
    "cuda_runtime.h": "cudart",
    "cuda_fp16.h": "cudart",
    "crt/host_config.h": "crt",
    "nv/target": "cccl",
    "cublas_v2.h": "cublas",
    "cusparse.h": "cusparse",
    "cusolverDn.h": "cusolver",
    "curand_kernel.h": "curand",
}
"""What torch and exllamav2 include of CUDA's headers → the extra of the distribution
`cuda-toolkit` whose wheel has it."""
_ASK_S: Final = 20.0
_RELEASE: Final = re.compile(r"\bV(\d+)\.(\d+)\.(\d+)")
_HERE: Final = re.compile(r"^#\$ _HERE_=(.+)$", re.MULTILINE)
_ARCHITECTURE: Final = re.compile(r"^compute_(\d+)(\d)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that a build needs and this host lacks."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Toolkit:
    """One CUDA toolkit."""

    root: Path
    version: tuple[int, int, int]
    architectures: frozenset[str]
    """Compute capabilities that its nvcc compiles for."""

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What was found; `missing` is empty where a build can start."""

    compiler: str | None = None
    """The C++ compiler's first line about itself."""
    toolkit: Toolkit | None = None
    includes: tuple[Path, ...] = ()
    """Folders that have the headers which the toolkit lacks."""
    cudart: Path | None = None
    """The runtime library, where the toolkit has no `libcudart.so` to link with."""
    missing: tuple[Missing, ...] = ()


def find_toolchain(
    torch: TorchBuild, environment: Mapping[str, str] = os.environ
) -> Toolchain:
    """Look for everything that builds an extension for a torch that has CUDA."""
    assert torch.cuda is not None
    missing: list[Missing] = []
    command = shlex.split(environment.get("CXX") or "c++")
    compiler = (_ask(*command, "--version") or "").partition("\n")[0] or None
    if compiler is None:
        missing.append(Missing("a C++ compiler", "apt install g++"))
    if (headers := python_headers()) is not None:
        missing.append(headers)
    if shutil.which("ninja", path=search_path(environment)) is None:
        missing.append(Missing("ninja", "pip install ninja"))
    toolkit = _toolkit(torch.cuda, environment, missing)
    if toolkit is None:
        return Toolchain(compiler, missing=tuple(missing))
    includes = _includes(toolkit, torch.cuda, missing)
    cudart = _cudart(toolkit, torch.cuda, missing)
    return Toolchain(compiler, toolkit, includes, cudart, tuple(missing))


def python_headers() -> Missing | None:
    """This Python's C headers, where they are missing."""
    folder = Path(sysconfig.get_path("include"))
    if (folder / "Python.h").is_file():
        return None
    return Missing(f"Python.h in {folder}", "apt install python3-dev")


def search_path(environment: Mapping[str, str]) -> str:
    """PATH, with the programs that pip puts beside this Python before it."""
    path = environment.get("PATH", os.defpath)
    return os.pathsep.join([str(Path(sys.executable).parent), path])


def _ask(*command: str) -> str | None:
    """What a program prints, on either stream; None where it cannot say."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _toolkit(
    cuda: str, environment: Mapping[str, str], missing: list[Missing]
) -> Toolkit | None:
    """The first toolkit of torch's CUDA generation; torch asks for no more."""
    others = []
    for root in _toolkit_roots(environment):
        toolkit = _examine(root)
        if toolkit is None:
            continue
        if toolkit.version[0] == int(cuda.partition(".")[0]):
            return toolkit
        others.append(f"{toolkit.version_text} in {toolkit.root}")
    what = f"nvcc for CUDA {cuda}"
    if others:
        what += f" (found {', '.join(others)})"
    missing.append(Missing(what, _pip("nvcc,nvvm,crt,cccl", cuda)))
    return None


def _toolkit_roots(environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders that may be a toolkit, each once, those that somebody named first."""
    seen = set()
    for root in _all_roots(environment):
        resolved = root.resolve()
        if resolved not in seen and (resolved / "bin" / "nvcc").is_file():
            seen.add(resolved)
            yield resolved


def _all_roots(environment: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if environment.get(variable):
            yield Path(environment[variable])
    on_path = shutil.which("nvcc", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    yield from wheel_folders()


def _examine(root: Path) -> Toolkit | None:
    """The toolkit that the nvcc of a folder belongs to, which may be a wrapper."""
    nvcc = str(root / "bin" / "nvcc")
    said = _ask(nvcc, "-dryrun", "-E", "-x", "cu", os.devnull) or ""
    here = _HERE.search(said)
    release = _RELEASE.search(_ask(nvcc, "--version") or "")
    if here is None or release is None:
        return None
    listed = _ask(nvcc, "--list-gpu-arch") or ""
    return Toolkit(
        Path(here[1].strip()).parent,
        (int(release[1]), int(release[2]), int(release[3])),
        frozenset(f"{major}.{minor}" for major, minor in _ARCHITECTURE.findall(listed)),
    )


def _includes(toolkit: Toolkit, cuda: str, missing: list[Missing]) -> tuple[Path, ...]:
    """Folders with the headers that the toolkit does not have where torch looks.

    Conda keeps them for each target; else NVIDIA's wheels have them.
    """
    own = toolkit.root / "include"
    others = sorted(toolkit.root.glob("targets/*/include"))
    others += [folder / "include" for folder in wheel_folders()]
    found: list[Path] = []
    for header, extra in HEADERS.items():
        if any((own / sub / header).exists() for sub in ("", "cccl")):
            continue
        with_it = [
            folder / sub
            for folder in others
            for sub in ("", "cccl")
            if (folder / sub / header).exists()
        ]
        if with_it:
            found.append(with_it[0])
        else:
            missing.append(Missing(header, _pip(extra, cuda)))
    return tuple(dict.fromkeys(found))


def _cudart(toolkit: Toolkit, cuda: str, missing: list[Missing]) -> Path | None:
    folders = [toolkit.root / name for name in ("lib64", "lib")]
    if any((folder / "libcudart.so").exists() for folder in folders):
        return None
    folders += sorted(toolkit.root.glob("targets/*/lib"))
    folders += [folder / "lib" for folder in wheel_folders()]
    major = cuda.partition(".")[0]
    for folder in folders:
        for library in sorted(folder.glob(f"libcudart.so.{major}*")):
            return library
    missing.append(Missing("libcudart.so", _pip("cudart", cuda)))
    return None


def _pip(extras: str, cuda: str) -> str:
    """How to get parts of a toolkit, all of one release, in NVIDIA's wheels."""
    return f"pip install 'cuda-toolkit[{extras}]=={cuda}.*'"
