"""exllamav2's extension, built for the CPU from the installed package's sources.

All of it, kernels included, by a C++ compiler alone: `exllamav2_cpu/include` has in
CUDA's stead what the sources use of it, and a kernel's threads take turns on one thread
of the CPU. Numbers are rounded as a GPU rounds them; only the order in which blocks add
to one result, which a GPU leaves open, is always the same here.

What no C++ compiler takes is rewritten in a copy, by `_REWRITES`.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "exllamav2_ext"
NEEDED_FEATURES: Final = ("avx2", "f16c", "fma")
"""Of the CPU, as /proc/cpuinfo spells them."""
OURS: Final = Path(__file__).parent / "exllamav2_cpu"
_OPTIONS: Final = (
    "-std=c++20", "-O1", "-w", "-fPIC", "-fvisibility=hidden",
    # Kernels read words as whatever they hold.
    "-fno-strict-aliasing",
    *(f"-m{feature}" for feature in NEEDED_FEATURES),
)  # fmt: skip
_REWRITES: Final = (
    (r"([\w:]+(?:<[^<>()]*>)?)\s*<<<(.*?)>>>", r"emulated::launch(\1, \2)"),
    (r'asm\("tanh\.approx.*;', "r = tanhf(x);"),
    # A tensor on the CPU has device -1: ours are all on device 0.
    (r"\.device\(\)\.index\(\)", ".device().index() + 1"),
    # Kernels for certain mixes of widths are the one for all of them, less what they
    # never reach: compiling 24 of them instead of 504 tests the same lines.
    (r"0b[01]{8}(?=, use_r_weights)", "0b10111110"),
)
_WITH_TORCH: Final = ("cache.cu", "q_matrix.cu")
"""Kernels in whose files torch's tensors are named."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What the extension is built with."""

    compiler: str
    exllamav2: Path
    """The package's folder."""
    torch: Path
    sanitizer: str = ""
    """`address`, say: see `cuda_stack.SANITIZER`."""

    @property
    def sanitizing(self) -> list[str]:
        return [f"-fsanitize={self.sanitizer}"] if self.sanitizer else []


def build(tools: Toolbox, folder: Path) -> None:
    """Make `folder`, with the extension in it.

    Raises:
        RuntimeError: the compiler or the linker failed.
    """
    folder.mkdir()
    sources, objects = folder / "sources", folder / "objects"
    objects.mkdir()
    _rewrite(tools.exllamav2 / NAME, sources)
    units = list(_units(tools, sources))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda unit: _compile(tools, sources, objects, *unit), units))
    libraries = ("c10", "torch_cpu", "torch", "torch_python")
    _run([
        tools.compiler, "-shared", *tools.sanitizing,
        *map(str, sorted(objects.iterdir())),
        "-o", str(folder / f"{NAME}.so"),
        f"-L{tools.torch / 'lib'}", *(f"-l{library}" for library in libraries),
    ])  # fmt: skip
    for made in (sources, objects):
        shutil.rmtree(made)


def _rewrite(package: Path, target: Path) -> None:
    """Copy the sources as a C++ compiler takes them."""
    for source in package.rglob("*"):
        if not source.is_file():
            continue
        text = source.read_text(encoding="utf-8")
        for pattern, instead in _REWRITES:
            text = re.sub(pattern, instead, text)
        if source.suffix in (".h", ".cuh"):  # some of them have no guard
            text = f"#pragma once\n{text}"
        copy = target / source.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")


def _units(tools: Toolbox, sources: Path) -> Iterator[tuple[Path, Sequence[Path]]]:
    """Translation units, the slowest first, and where else they find headers."""
    torch = (
        tools.torch / "include",
        tools.torch / "include/torch/csrc/api/include",
        Path(sysconfig.get_path("include")),
    )
    yield OURS / "extension.cpp", torch
    for name in _WITH_TORCH:
        yield sources / "cuda" / name, torch
    # In one unit, in which equal instances of a kernel are compiled once.
    products = sources / "cuda/comp_units"
    everything = products / "all.cpp"
    everything.write_text(
        "".join(f'#include "{unit.name}"\n' for unit in sorted(products.glob("*.cu")))
    )
    yield everything, ()
    for kernels in sorted((sources / "cuda").glob("*.cu")):
        if kernels.name not in _WITH_TORCH:
            yield kernels, ()
    yield OURS / "block.cpp", ()


def _compile(
    tools: Toolbox, sources: Path, objects: Path, unit: Path, headers: Sequence[Path]
) -> None:
    _run([
        tools.compiler, *_OPTIONS, *tools.sanitizing,
        f"-DTORCH_EXTENSION_NAME={NAME}",
        *(f"-I{folder}" for folder in (OURS / "include", sources, *headers)),
        "-x", "c++", "-c", str(unit), "-o", str(objects / f"{unit.stem}.o"),
    ])  # fmt: skip


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-4000:]}")
