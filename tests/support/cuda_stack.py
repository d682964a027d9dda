"""What the tests of the exllamav2 engine need, and why they are skipped without it.

No GPU and no CUDA toolkit: torch's CPU build, triton and exllamav2's Python suffice,
with `exllamav2_ext` compiled for the CPU (`extension_build`), in half a minute on two
cores, and kept in the user's cache folder.

A module that imports any of these begins with

    cuda_stack.require("torch", "triton")

and one that drives exllamav2 calls `use_cpu_extension()` before it imports it.
"""

import hashlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

import pytest

from neuron.engines.exllamav2.attention.provider import install
from tests.support import extension_build
from tests.support.cache import kept_folder

SANITIZER: Final = "CORTEX_EXTENSION_SANITIZER"
"""Environment variable: what the extension is built with to see what its kernels read
and write out of bounds, `address` say. Python has then to be started with

    ASAN_OPTIONS=detect_leaks=0
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
"""
BUILD_DEADLINE_S: Final = 240.0
"""For tests that may be the first to need the extension: 60 s of CPU time, once."""
_INSTALL: Final = {
    "torch": "pip install 'torch==2.13.*'",
    "triton": "it comes with torch's CUDA build, or pip install triton",
    "exllamav2": "pip install --no-deps exllamav2==0.3.2",
}


def require(*packages: str) -> None:
    """Skip the module or the test that calls this unless all can be imported."""
    for package in packages:
        if find_spec(package) is None:
            how = _INSTALL.get(package, f"pip install {package}")
            pytest.skip(f"{package} is not installed: {how}", allow_module_level=True)


def use_cpu_extension() -> None:
    """Make `import exllamav2` work in this process; skips where it cannot.

    Whatever `exllamav2_ext` is imported already stays. Paged attention is there, too,
    where triton is: the library looks for it once, when the first test imports it.
    """
    if find_spec("triton") is not None:
        install()
    if extension_build.NAME in sys.modules:
        return
    folder = str(cpu_extension())
    importlib.import_module("torch")  # brings the libraries that the extension needs
    sys.path.insert(0, folder)
    try:
        importlib.import_module(extension_build.NAME)
    finally:
        sys.path.remove(folder)


def cpu_extension() -> Path:
    """The folder with the extension, for `sys.path` or another process's PYTHONPATH.

    Skips where it cannot be built; a compiler's error fails the test.
    """
    require("torch", "exllamav2")
    compiler = _compiler()
    sanitizer = os.environ.get(SANITIZER, "")
    tools = extension_build.Toolbox(
        compiler, _package("exllamav2"), _package("torch"), sanitizer
    )
    try:
        return kept_folder(
            f"exllamav2-ext-{_key(compiler, sanitizer)}",
            lambda folder: extension_build.build(tools, folder),
            wait_s=BUILD_DEADLINE_S,
        )
    except TimeoutError as error:
        _skip(str(error))


def _compiler() -> str:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        _skip("exllamav2's extension is built for Linux on x86-64 here")
    features = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    missing = [name for name in extension_build.NEEDED_FEATURES if name not in features]
    if missing:
        _skip(f"this CPU lacks {', '.join(missing)}")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        _skip("no C++ compiler: apt install g++")
    if not (_python_headers() / "Python.h").exists():
        _skip(f"no Python.h in {_python_headers()}: apt install python3-dev")
    return compiler


def _skip(reason: str) -> NoReturn:
    pytest.skip(reason, allow_module_level=True)


def _python_headers() -> Path:
    return Path(sysconfig.get_path("include"))


def _package(name: str) -> Path:
    """Its folder, without importing it."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _key(*settings: str) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    ours = (path for path in sorted(extension_build.OURS.rglob("*")) if path.is_file())
    for path in (Path(extension_build.__file__), *ours):
        digest.update(path.read_bytes())
    versions = [
        f"{name}{importlib.metadata.version(name)}" for name in ("exllamav2", "torch")
    ]
    tag = sys.implementation.cache_tag
    return "-".join([*versions, str(tag), digest.hexdigest()[:12]])


if __name__ == "__main__":
    print(cpu_extension())
