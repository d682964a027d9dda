"""Which build of the extension serves, and what is said where none does."""

import dataclasses
import importlib.machinery
import sys
from pathlib import Path

import pytest

from neuron.engines.exllamav2.host import extension
from neuron.engines.exllamav2.host.extension import Key, Manifest, find, find_exact
from tests.unit.exllamav2.fake_host import FakeHost, complete_host

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
KEY = Key("py311", "2.11.0", "cu130", ("9.0",))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of builds; nothing else can be found, imported already or installed."""
    monkeypatch.setenv(extension.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.delitem(sys.modules, extension.MODULE, raising=False)
    monkeypatch.setattr(extension, "installed", lambda: None)
    return tmp_path / "exllamav2-0.3.2"


def built(root: Path, *architectures: str, torch: str = "2.11.0") -> Path:
    key = dataclasses.replace(KEY, torch=torch, architectures=architectures)
    folder = root / str(key)
    folder.mkdir(parents=True)
    file = f"{extension.MODULE}{SUFFIX}"
    (folder / file).write_bytes(b"no library")
    Manifest(
        key=str(key), file=file, architectures=architectures, exllamav2="0.3.2",
        python="3.11.7", torch=torch, cuda="cu130", nvcc="13.0.88", compiler="g++",
        jobs=2, seconds=1.0, built_at="2026-01-01T00:00:00+00:00",
    ).write(folder)  # fmt: skip
    return folder / file


def path_of(*architectures: str) -> Path | None:
    found = find(dataclasses.replace(KEY, architectures=architectures))
    return found.path if found else None


def test_a_key_names_all_that_a_build_depends_on() -> None:
    two = dataclasses.replace(KEY, architectures=("8.0", "9.0"))
    assert str(two) == "py311-torch2.11.0-cu130-sm80_90"
    assert str(dataclasses.replace(KEY, architectures=())) == "py311-torch2.11.0-cu130"


def test_the_exact_build_comes_first(root: Path) -> None:
    both, exact = built(root, "8.0", "9.0"), built(root, "9.0")
    assert path_of("9.0") == exact
    assert path_of("8.0") == both
    assert path_of("8.0", "9.0") == both


def test_code_runs_on_later_minor_versions_of_its_generation_only(root: Path) -> None:
    ampere = built(root, "8.0")
    assert path_of("8.6") == ampere
    assert path_of("9.0") is None
    assert path_of("7.5") is None
    newer = built(root, "12.1")
    assert path_of("12.0") is None
    assert path_of("12.1") == newer


def test_a_gpu_that_no_build_is_for_does_not_cost_the_others(root: Path) -> None:
    hopper = built(root, "9.0")
    assert path_of("6.1", "9.0") == hopper
    everything = built(root, "6.1", "9.0")
    assert path_of("6.1", "9.0") == everything


def test_a_host_without_gpus_takes_any(root: Path) -> None:
    assert path_of() is None
    hopper = built(root, "9.0")
    assert path_of() == hopper


def test_another_torch_needs_its_own(root: Path) -> None:
    built(root, "9.0", torch="2.12.0")
    assert path_of("9.0") is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"architectures": 5}', "\xff"])
def test_a_build_that_does_not_say_what_it_is_is_none(root: Path, text: str) -> None:
    file = built(root, "9.0")
    (file.parent / "manifest.json").write_text(text, encoding="latin-1")
    assert path_of("9.0") is None
    assert find_exact(KEY, root) is None


def test_a_manifest_without_its_file_is_no_build(root: Path) -> None:
    built(root, "9.0").unlink()
    assert path_of("9.0") is None


def test_the_user_s_cache_folder_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(extension.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = extension.extensions_dir()
    assert folder == tmp_path / "cortex/extensions/exllamav2-0.3.2"


def test_an_installed_extension_serves_where_none_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(extension.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.delitem(sys.modules, extension.MODULE, raising=False)
    wheel = tmp_path / "site" / f"{extension.MODULE}{SUFFIX}"
    wheel.parent.mkdir()
    wheel.touch()
    monkeypatch.syspath_prepend(str(wheel.parent))
    found = find(KEY)
    assert found is not None
    assert (found.path, found.manifest) == (wheel, None)


USE = """
import sys
from neuron.engines.base import EngineError
from neuron.engines.exllamav2.host.extension import use_extension
try:
    path = use_extension()
except EngineError as error:
    print(error.code, error)
else:
    module = sys.modules["exllamav2_ext"]
    print(path, path == use_extension(), module.__file__ in map(str, [path]))
print(*[folder for folder in sys.path if "extensions" in folder])
"""


def test_use_without_a_build_says_how_to_get_one(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    assert host.evaluate(USE).startswith("engine_unavailable torch is not installed")
    host.torch()
    host.gpu()
    said = host.evaluate(USE)
    key = f"py3{sys.version_info.minor}-torch2.11.0-cu130-sm90"
    assert f"not built for {key}: run `neuron build-ext`" in said


def test_use_imports_the_build_and_leaves_the_path_as_it_was(tmp_path: Path) -> None:
    host = complete_host(tmp_path)
    assert host.run("build-ext", "--arch", "9.0").returncode == 0
    (file,) = host.kept.glob("*/exllamav2_ext*")
    assert host.evaluate(USE).startswith(f"engine_unavailable {file} does not fit")
    host.write("site/torch/__init__.py", "raise OSError('libcudart.so.13')")
    said = host.evaluate(USE)
    assert said.startswith("engine_unavailable torch cannot be imported: libcudart")
    host.torch()
    # What stands for a library here: a Python module in the same place.
    module = file.with_name("exllamav2_ext.py")
    file.unlink()
    module.touch()
    manifest = file.with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace(file.name, module.name))
    assert host.evaluate(USE) == f"{module} True True\n\n"
