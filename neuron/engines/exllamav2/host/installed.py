"""What is installed beside this package, found without importing any of it.

Importing torch takes seconds, and importing exllamav2 may compile for minutes.
"""

import ast
import importlib.metadata
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

EXLLAMAV2_VERSION: Final = "0.3.2"
"""The one release whose internals this engine relies on."""
INSTALL: Final = "pip install 'cortex-tui[cuda]'"
_ASSIGNMENT: Final = re.compile(
    r"^(?P<name>__version__|cuda)\b[^=\n]*=\s*(?P<value>.+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The installed torch."""

    version: str
    """Without the local part: `2.11.0`."""
    cuda: str | None
    """The CUDA version it was built for, such as `13.0`; None for a CPU build."""
    folder: Path

    @property
    def name(self) -> str:
        """As people name it: `2.11.0+cu130`."""
        return f"{self.version}+{self.cuda_tag}"

    @property
    def cuda_tag(self) -> str:
        """`cu130`, or `cpu`."""
        return "cpu" if self.cuda is None else "cu" + self.cuda.replace(".", "")


def package_folder(name: str) -> Path | None:
    """The folder of a top-level package, which is not imported; None without one."""
    try:
        spec = find_spec(name)
    except ValueError:
        # A module in sys.modules that has no spec, as stand-ins have none.
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def version_of(distribution: str) -> str | None:
    """The installed version by its metadata; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(version: str) -> str:
    """The version without what somebody who built it added, as in `0.3.2+cu128`."""
    return version.partition("+")[0]


def torch_build() -> TorchBuild | None:
    """The installed torch, from its own `version.py` read as text.

    None where there is none, or one that does not say what it is.
    """
    folder = package_folder("torch")
    if folder is None:
        return None
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
        found = {
            match["name"]: ast.literal_eval(match["value"].strip())
            for match in _ASSIGNMENT.finditer(text)
        }
    except (OSError, ValueError, SyntaxError):
        return None
    version = found.get("__version__")
    if not isinstance(version, str):
        return None
    return TorchBuild(release(version), found.get("cuda"), folder)


def python_tag() -> str:
    """`py311`."""
    return f"py{sys.version_info.major}{sys.version_info.minor}"


def wheel_folders() -> list[Path]:
    """The `nvidia/*` folders of NVIDIA's wheels: headers in `include`, libraries in
    `lib`, and programs in `bin`."""
    try:
        spec = find_spec("nvidia")
    except ValueError:
        return []
    roots = spec.submodule_search_locations if spec else None
    return [
        Path(entry.path)
        for root in roots or ()
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name)
        if entry.is_dir() and not entry.name.startswith("_")
    ]
