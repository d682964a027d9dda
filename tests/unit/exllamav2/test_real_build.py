"""The build's own path with real parts: torch's helper, ninja and a C++ compiler."""

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron.engines.exllamav2.host.build import Build, run
from neuron.engines.exllamav2.host.extension import FOLDER_VARIABLE, Key
from neuron.engines.exllamav2.host.installed import torch_build
from neuron.engines.exllamav2.host.toolchain import Toolchain
from tests.support import cuda_stack

pytestmark = [pytest.mark.cuda_stack, pytest.mark.timeout(240)]

MODULE = """
#include <pybind11/pybind11.h>
int answer();
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("answer", &answer); }
"""
USE = """
from neuron.engines.exllamav2.host.extension import use_extension
path = use_extension()
import exllamav2_ext
print(path, exllamav2_ext.answer())
"""
ROOT = Path(__file__).parents[3]


def test_two_files_become_a_module_that_serving_takes(tmp_path: Path) -> None:
    cuda_stack.require("torch")
    torch = torch_build()
    assert torch is not None
    module, answer = tmp_path / "module.cpp", tmp_path / "answer.cpp"
    module.write_text(MODULE)
    answer.write_text('#include "answer.h"\nint answer() { return ANSWER; }\n')
    include = tmp_path / "in clude"
    include.mkdir()
    (include / "answer.h").write_text("#define ANSWER 42\n")
    build = Build(
        key=Key.of(torch, ["9.0"]),
        sources=(module, answer),
        toolchain=Toolchain(includes=(include,)),
        jobs=2,
        root=tmp_path / "exllamav2-0.3.2",
    )
    build.root.mkdir()
    counts: list[tuple[int, int]] = []
    found = run(build, lambda done, total: counts.append((done, total)))

    assert counts == [(0, 2), (1, 2), (2, 2)]
    assert found.path.parent == build.folder
    assert found.path.name.endswith(importlib.machinery.EXTENSION_SUFFIXES[0])
    asked = subprocess.run(
        [sys.executable, "-c", USE],
        env=os.environ | {FOLDER_VARIABLE: str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == f"{found.path} 42\n"
