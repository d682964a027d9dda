"""Which modules exllamav2 finds."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.attention import provider
from neuron.engines.exllamav2.attention.provider import install
from tests.support import cuda_stack

cuda_stack.require("torch", "triton")

from neuron.engines.exllamav2.attention import flash

_REAL = """
__version__ = "{version}"
def flash_attn_func(q, k, v, causal=False, window_size=(-1, -1){more}): "real"
def flash_attn_varlen_func(): "real"
def flash_attn_with_kvcache(): "real"
"""


def _flash_attn(folder: Path, version: str, binary: str = "", more: str = "") -> None:
    package = folder / "flash_attn"
    package.mkdir()
    text = _REAL.format(version=version, more=more)
    (package / "__init__.py").write_text(text)
    (folder / "flash_attn_2_cuda.py").write_text(binary)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just started; what was there comes back afterwards."""
    for name in ("flash_attn", "flash_attn_2_cuda", "exllamav2.attn"):
        # Set first, so that it is taken away again where it was not there.
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(provider, "_installed", None)
    monkeypatch.delenv("EXLLAMA_NO_FLASH_ATTN", raising=False)


def test_ours_where_there_is_no_flash_attn() -> None:
    found = install()
    assert found.name == "triton"
    assert {"paged", "window", "softcap"} <= found.features
    assert install() is found
    assert sys.modules["flash_attn"].flash_attn_func is flash.flash_attn_func
    assert sys.modules["flash_attn_2_cuda"].fwd_kvcache is flash.fwd_kvcache
    assert find_spec("flash_attn") is not None


def test_a_real_flash_attn_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flash_attn(tmp_path, "2.8.3.post1", more=", softcap=0.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = install()
    assert (found.name, found.version) == ("flash-attn", "2.8.3.post1")
    assert found.features == {"paged", "softcap", "window"}
    assert sys.modules["flash_attn"].flash_attn_func is not flash.flash_attn_func


def test_a_flash_attn_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flash_attn(tmp_path, "2.5.7")
    monkeypatch.syspath_prepend(tmp_path)
    assert install().features == {"paged", "window"}


@pytest.mark.parametrize(
    ("version", "binary", "why"),
    [
        ("2.5.6", "", "version 2.5.6 has no paged attention"),
        ("2.8.3", "raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol"),
        ("2.8.3", "import not_there_at_all", "not_there_at_all"),
    ],
)
def test_a_flash_attn_that_does_not_work_is_replaced_and_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    binary: str,
    why: str,
) -> None:
    _flash_attn(tmp_path, version, binary)
    monkeypatch.syspath_prepend(tmp_path)
    assert install().name == "triton"
    assert sys.modules["flash_attn"].flash_attn_func is flash.flash_attn_func
    assert why in caplog.text


def test_exllamav2_takes_ours() -> None:
    folder = cuda_stack.cpu_extension()
    code = """
import json
from neuron.engines.exllamav2.attention.provider import install
install()
from exllamav2 import attn
print(json.dumps({
    "paged": attn.has_flash_attn_with_paged, "window": attn.has_flash_attn_with_window,
    "softcap": attn.has_flash_attn_with_softcap,
    "ours": attn.flash_attn_with_kvcache.__module__,
}))
"""
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "paged": True,
        "window": True,
        "softcap": True,
        "ours": "neuron.engines.exllamav2.attention.flash",
    }


def test_exllamav2_s_switch_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXLLAMA_NO_FLASH_ATTN", "1")
    with pytest.raises(EngineError, match="unset EXLLAMA_NO_FLASH_ATTN") as caught:
        install()
    assert caught.value.code == "engine_unavailable"


def test_without_triton_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(EngineError, match="needs torch and triton") as caught:
        install()
    assert caught.value.code == "engine_unavailable"


def test_coming_too_late_is_a_mistake_in_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "exllamav2.attn", sys)
    with pytest.raises(RuntimeError, match="imported before its attention provider"):
        install()
