"""Builds exllamav2's extension ahead of serving, without importing exllamav2.

The result appears in its place whole or not at all. One process builds a key at a time;
the lock is the kernel's, so that a killed build leaves none behind.
"""

import ast
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from neuron.engines.exllamav2.host.compile_process import Job
from neuron.engines.exllamav2.host.extension import (
    MANIFEST,
    MODULE,
    Found,
    Key,
    Manifest,
    extensions_dir,
)
from neuron.engines.exllamav2.host.installed import EXLLAMAV2_VERSION
from neuron.engines.exllamav2.host.process_session import end_session
from neuron.engines.exllamav2.host.toolchain import Toolchain, search_path

CFLAGS: Final = ("-Ofast",)
CUDA_CFLAGS: Final = ("-lineinfo", "-O3")
"""As exllamav2 0.3.2 passes them in `ext.py`."""
JOB_BYTES: Final = 2 * 1024**3
"""Memory for one compiler; measured: 1.6 GiB."""
_FINISHED: Final = re.compile(r"^\[(\d+)/\d+\] ")
"""How ninja begins the line of a finished command, by the status asked of it."""
_TELLING: Final = re.compile(r"^FAILED: |\berror\b|\bError:", re.IGNORECASE)
_LINES_SHOWN: Final = 8
_POLL_S: Final = 0.2


class BuildError(Exception):
    """The build did not work; the message says why, in the compiler's words."""


class BusyError(Exception):
    """Another process builds the same."""


@dataclass(frozen=True, slots=True)
class Build:
    """One build, decided."""

    key: Key
    sources: tuple[Path, ...]
    toolchain: Toolchain
    jobs: int
    root: Path = field(default_factory=extensions_dir)
    include: Path | None = None
    """The sources' own headers."""

    @property
    def folder(self) -> Path:
        """Where the result will be."""
        return self.root / str(self.key)

    @property
    def log(self) -> Path:
        """What compilers print, of this build or the last."""
        return self.root / f"{self.key}.log"


def list_sources(package: Path) -> tuple[Path, ...]:
    """The extension's sources, as the package's `ext.py` lists them.

    Raises:
        BuildError: there is no such list, or a file of it is missing.
    """
    file = package / "ext.py"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise BuildError(f"{file}: {error}") from error
    listed = next(
        (
            ast.literal_eval(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == ["sources_"]
        ),
        None,
    )
    if not listed:
        raise BuildError(f"{file} has no list of sources")
    found = tuple(package / MODULE / name for name in listed)
    for source in found:
        if not source.is_file():
            raise BuildError(f"{source} is missing: reinstall exllamav2")
    return found


def default_jobs(memory_available: int | None) -> int:
    """Compilers at once: one for each CPU, as far as the memory goes."""
    cpus = len(os.sched_getaffinity(0))
    if memory_available is None:
        return cpus
    return max(1, min(cpus, memory_available // JOB_BYTES))


@contextmanager
def locked(
    build: Build, waiting: Callable[[str], None], *, wait: bool = True
) -> Iterator[None]:
    """Hold the key's lock; `waiting` is called once where another process has it.

    Raises:
        BusyError: another process has it and `wait` is false.
    """
    build.root.mkdir(parents=True, exist_ok=True)
    with (build.root / f".{build.key}.lock").open("a+") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                who = f"process {file.read().strip() or 'unknown'} builds {build.key}"
                if not wait:
                    raise BusyError(who) from None
                if not told:
                    waiting(who)
                    told = True
                time.sleep(_POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def run(build: Build, progress: Callable[[int, int], None]) -> Found:
    """Compile, link and put the result in its place; the lock is held by the caller.

    `progress` is called with (finished, all) sources.

    Raises:
        BuildError: a compiler failed.
        OSError: the folder cannot be written.
    """
    for left in build.root.glob(f".building-{build.key}-*"):
        # Of a killed build, whose compilers may just be ending.
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f".building-{build.key}-", dir=build.root, ignore_cleanup_errors=True
    ) as temporary:
        work = Path(temporary)
        started = time.monotonic()
        _compile(build, work, progress)
        manifest = _manifest(build, time.monotonic() - started)
        return _put(build, work, manifest)


def _compile(build: Build, work: Path, progress: Callable[[int, int], None]) -> None:
    total = len(build.sources)
    progress(0, total)
    last: deque[str] = deque(maxlen=400)
    process = subprocess.Popen(
        _job(build, work).command(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(build),
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with process.stdout, build.log.open("w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                last.append(line)
                finished = _FINISHED.match(line)
                if finished and int(finished[1]) <= total:  # what follows links them
                    progress(int(finished[1]), total)
        code = process.wait()
    except BaseException:
        end_session(process.pid)
        process.wait()
        raise
    if code:
        raise BuildError(_explain(last, code, build.log))


def _job(build: Build, work: Path) -> Job:
    includes = [
        f"-isystem {shlex.quote(str(folder))}" for folder in build.toolchain.includes
    ]
    libraries = []
    if build.toolchain.cudart:
        (work / "libcudart.so").symlink_to(build.toolchain.cudart)
        libraries.append(f"-L{shlex.quote(str(work))}")
    return Job(
        parent=os.getpid(),
        name=MODULE,
        sources=tuple(map(str, build.sources)),
        build_directory=str(work),
        extra_include_paths=(str(build.include),) if build.include else (),
        extra_cflags=(*CFLAGS, *includes),
        extra_cuda_cflags=(*CUDA_CFLAGS, *includes),
        extra_ldflags=tuple(libraries),
    )


def environment(build: Build, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the compilers' process gets: torch's helper reads its settings there."""
    settings = {
        "MAX_JOBS": str(build.jobs),
        "NINJA_STATUS": "[%f/%t] ",
        "PATH": search_path(base),
        "TORCH_CUDA_ARCH_LIST": ";".join(build.key.architectures),
    }
    if build.toolchain.toolkit:
        settings["CUDA_HOME"] = str(build.toolchain.toolkit.root)
    return {**base, **settings}


def _explain(last: deque[str], code: int, log: Path) -> str:
    telling = [line.rstrip() for line in last if _TELLING.search(line)]
    said = telling[:_LINES_SHOWN] or [line.rstrip() for line in last][-_LINES_SHOWN:]
    return "\n".join([*said, f"the build ended with status {code}; all of it: {log}"])


def _manifest(build: Build, seconds: float) -> Manifest:
    toolkit = build.toolchain.toolkit
    return Manifest(
        key=str(build.key),
        file=MODULE + sysconfig.get_config_var("EXT_SUFFIX"),
        architectures=build.key.architectures,
        exllamav2=EXLLAMAV2_VERSION,
        python=sys.version.partition(" ")[0],
        torch=build.key.torch,
        cuda=build.key.cuda,
        nvcc=toolkit.version_text if toolkit else "",
        compiler=build.toolchain.compiler or "",
        jobs=build.jobs,
        seconds=round(seconds, 1),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _put(build: Build, work: Path, manifest: Manifest) -> Found:
    """Move the result into place; a process that uses an earlier one keeps that."""
    done = work / "done"
    done.mkdir()
    (work / f"{MODULE}.so").rename(done / manifest.file)
    manifest.write(done)
    if build.folder.is_dir():
        for file in (manifest.file, MANIFEST):
            os.replace(done / file, build.folder / file)
    else:
        done.rename(build.folder)
    return Found(build.folder / manifest.file, manifest)
