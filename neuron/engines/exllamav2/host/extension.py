"""exllamav2's compiled extension: where it is kept, and which one fits this host.

`neuron build-ext` puts it there. Serving only takes what there is: it never compiles
and waits on no lock.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import platformdirs

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.host.gpus import host_gpus
from neuron.engines.exllamav2.host.installed import (
    EXLLAMAV2_VERSION,
    TorchBuild,
    python_tag,
    torch_build,
)

MODULE: Final = "exllamav2_ext"
MANIFEST: Final = "manifest.json"
FOLDER_VARIABLE: Final = "NEURON_EXLLAMAV2_EXTENSIONS"
"""Names another folder for what is built than the user's cache folder."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a build of the extension is good for; another combination needs its own."""

    python: str
    """`py311`."""
    torch: str
    """`2.11.0`; its C++ interface changes with every minor release."""
    cuda: str
    """`cu130`."""
    architectures: tuple[str, ...]
    """Compute capabilities, lowest first: `8.0`, `9.0`. Empty: not known."""

    @classmethod
    def of(cls, build: TorchBuild, architectures: Sequence[str]) -> "Key":
        """This Python and that torch."""
        return cls(python_tag(), build.version, build.cuda_tag, tuple(architectures))

    @property
    def stem(self) -> str:
        """All but the architectures."""
        return f"{self.python}-torch{self.torch}-{self.cuda}"

    def __str__(self) -> str:
        """`py311-torch2.11.0-cu130-sm80_90`."""
        if not self.architectures:
            return self.stem
        numbers = (each.replace(".", "") for each in self.architectures)
        return f"{self.stem}-sm{'_'.join(numbers)}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is said about a build beside it."""

    key: str
    file: str
    architectures: tuple[str, ...]
    exllamav2: str
    python: str
    torch: str
    cuda: str
    nvcc: str
    compiler: str
    jobs: int
    seconds: float
    built_at: str
    """ISO 8601, UTC."""

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """None where there is no build, or none that says what it is."""
        try:
            values: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
            values["architectures"] = tuple(values["architectures"])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Found:
    """An extension that is ready to be imported."""

    path: Path
    manifest: Manifest | None
    """None for one that somebody else installed."""

    def runs_on(self, architecture: str) -> bool:
        """Whether it has code for this compute capability, as far as is known."""
        if self.manifest is None:
            return True
        major, minor = _numbers(architecture)
        built = map(_numbers, self.manifest.architectures)
        return any(has[0] == major and has[1] <= minor for has in built)


def extensions_dir() -> Path:
    """Where the builds for this release of exllamav2 are kept."""
    given = os.environ.get(FOLDER_VARIABLE)
    cache = Path(platformdirs.user_cache_dir("cortex", appauthor=False))
    root = Path(given).expanduser() if given else cache / "extensions"
    return root / f"exllamav2-{EXLLAMAV2_VERSION}"


def find(key: Key, root: Path | None = None) -> Found | None:
    """The build that `key` calls for, else the extension that is installed, if any.

    A build for more architectures fits, and so does one for an earlier minor compute
    capability: code for 8.0 runs on 8.6. Where none runs on all, the first that runs on
    some of them is taken: a host may have a GPU that torch itself has no code for.
    """
    root = root or extensions_dir()
    folders = [root / str(key), *sorted(root.glob(f"{key.stem}-sm*"))]
    builds = [found for folder in folders if (found := _built(folder))]
    builds.sort(key=lambda found: -_fit(found, key))
    for found in builds:
        if _fit(found, key) or not key.architectures:
            return found
    return installed()


def find_exact(key: Key, root: Path) -> Found | None:
    """The build of exactly that key."""
    return _built(root / str(key))


def _built(folder: Path) -> Found | None:
    manifest = Manifest.read(folder)
    if manifest is None or not (folder / manifest.file).is_file():
        return None
    return Found(folder / manifest.file, manifest)


def _fit(found: Found, key: Key) -> int:
    """How many of the key's architectures the build has code for."""
    return sum(map(found.runs_on, key.architectures))


def _numbers(architecture: str) -> tuple[int, int]:
    major, _, minor = architecture.partition(".")
    return int(major), int(minor)


def installed() -> Found | None:
    """The extension of a prebuilt wheel, on `sys.path`, or one already imported."""
    module = sys.modules.get(MODULE)
    if module is not None:
        return Found(Path(str(module.__file__)), None)
    spec = find_spec(MODULE)
    return Found(Path(spec.origin), None) if spec and spec.origin else None


def missing(key: Key) -> tuple[str, str]:
    """What to say where there is none, and what to do."""
    return f"the extension is not built for {key}", "run `neuron build-ext`"


def use_extension() -> Path:
    """Import the extension that fits this host, and torch before it.

    What imports exllamav2 afterwards finds it and has nothing to compile.

    Raises:
        EngineError: there is none, or it does not fit; code `engine_unavailable`.
    """
    if MODULE not in sys.modules:
        build = torch_build()
        if build is None:
            raise _unavailable("torch is not installed")
        key = Key.of(build, host_gpus().architectures)
        found = find(key)
        if found is None:
            raise _unavailable(": ".join(missing(key)))
        _import(found)
    return Path(str(sys.modules[MODULE].__file__))


def _import(found: Found) -> None:
    try:
        import_module("torch")  # brings the libraries that the extension needs
    except (ImportError, OSError) as error:  # the latter for a library that is missing
        raise _unavailable(f"torch cannot be imported: {error}") from error
    folder = str(found.path.parent)
    sys.path.insert(0, folder)
    invalidate_caches()
    try:
        import_module(MODULE)
    except ImportError as error:
        raise _unavailable(
            f"{found.path} does not fit this Python and torch ({error}): run "
            "`neuron build-ext --force`"
        ) from error
    finally:
        sys.path.remove(folder)


def _unavailable(message: str) -> EngineError:
    return EngineError(message, code="engine_unavailable")
