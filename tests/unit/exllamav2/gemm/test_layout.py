"""The table against the library's own functions, compiled for the CPU."""

import ctypes
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from neuron.engines.exllamav2.gemm.layout import UNITS
from neuron.exl2.bitstream import pack_columns
from tests.support import cuda_stack
from tests.unit.exllamav2.gemm.matrices import packed_unit

pytestmark = pytest.mark.cuda_stack

SHUFFLE = re.compile(
    r"__forceinline__ __device__ void shuffle_\w+\s*\(.*?\n}\n", re.DOTALL
)
COLUMNS = 64


@pytest.fixture(scope="module")
def shuffles(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    cuda_stack.require("exllamav2")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: apt install g++")
    spec = find_spec("exllamav2")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    text = "#include <cstdint>\n#define __forceinline__ inline\n#define __device__\n"
    for bits in (2, 3, 4, 5, 6):
        header = package / f"exllamav2_ext/cuda/quant/qdq_{bits}.cuh"
        found = SHUFFLE.search(header.read_text(encoding="utf-8"))
        assert found is not None
        name = found.group().split("void ")[1].split()[0]
        text += f'{found.group()}extern "C" void shuffle{bits}'
        text += f"(uint32_t* q, int stride) {{ {name}(q, stride); }}\n"
    folder = tmp_path_factory.mktemp("shuffles")
    (folder / "shuffles.cpp").write_text(text, encoding="utf-8")
    command = [compiler, "-O1", "-w", "-shared", "-fPIC", "shuffles.cpp"]
    subprocess.run([*command, "-o", "shuffles.so"], cwd=folder, check=True, timeout=60)
    return ctypes.CDLL(str(folder / "shuffles.so"))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_is_where_the_library_puts_the_bits(shuffles: ctypes.CDLL, bits: int) -> None:
    unit = UNITS[bits]
    rng = np.random.default_rng(bits)
    block = rng.integers(0, 1 << bits, (32, COLUMNS), dtype=np.uint8)
    words = np.ascontiguousarray(pack_columns(block, bits))
    shuffle = getattr(shuffles, f"shuffle{bits}")
    for start in range(0, 32, len(unit.rows)):
        first = start * bits // 32
        mine = words[first : first + unit.words]
        for column in range(COLUMNS):
            shuffle(ctypes.c_void_p(mine[:, column].ctypes.data), COLUMNS)
        levels = block[start : start + len(unit.rows)]
        np.testing.assert_array_equal(mine, packed_unit(unit, levels))


def test_eight_bits_stay_where_they_are() -> None:
    levels = np.arange(4 * COLUMNS, dtype=np.uint8).reshape(4, COLUMNS)
    stream = pack_columns(np.tile(levels, (8, 1)), 8)[:1]
    np.testing.assert_array_equal(stream, packed_unit(UNITS[8], levels))


@pytest.mark.parametrize("bits", UNITS)
def test_every_bit_of_a_unit_is_used_once(bits: int) -> None:
    unit = UNITS[bits]
    used = [0] * unit.words
    for parts in unit.rows:
        for part in parts:
            run = part.mask << part.shift
            assert not used[part.word] & run
            used[part.word] |= run
    rows = len(unit.rows)
    assert sum(word.bit_count() for word in used) == bits * rows
    assert all(word == (1 << 32) - 1 for word in used)
