import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.engines.base import EngineError, LoadCancelledError
from tests.support import cuda_stack

cuda_stack.require("torch")

import torch

from neuron.engines.exllamav2.loading.columns import DeviceReordering
from neuron.engines.exllamav2.loading.staging import Staging, Transfer

PIECE = 64


@pytest.fixture
def numbers(tmp_path: Path) -> tuple[Path, Any]:
    rng = np.random.default_rng(1)
    data = rng.standard_normal(1000).astype(np.float16)
    file = tmp_path / "numbers"
    file.write_bytes(b"head" + data.tobytes())
    return file, torch.from_numpy(data)


def transfers(file: Path, dtype: Any = torch.float16) -> list[Transfer]:
    """Ten tensors of a hundred numbers."""
    return [
        Transfer(file, 4 + 200 * i, 200, torch.float16, torch.empty(100, dtype=dtype))
        for i in range(10)
    ]


@pytest.mark.parametrize("through_buffers", [False, True])
@pytest.mark.parametrize("order", [range(10), range(9, -1, -1)])
@pytest.mark.parametrize("piece", [8, PIECE, 4096])
def test_every_tensor_arrives(
    numbers: tuple[Path, Any], piece: int, order: range, through_buffers: bool
) -> None:
    file, data = numbers
    staging = Staging(
        transfers(file), lambda: False, piece_bytes=piece,
        through_buffers=through_buffers,
    )  # fmt: skip
    staging.start()
    for index in order:
        expected = data[100 * index : 100 * (index + 1)]
        assert torch.equal(staging.wait(index), expected)
    assert staging.stats.nbytes == 2000
    assert staging.stats.rate > 0
    staging.close()


def test_floats_are_converted_on_the_way(numbers: tuple[Path, Any]) -> None:
    file, data = numbers
    staging = Staging(transfers(file, torch.float32), lambda: False, piece_bytes=PIECE)
    staging.start()
    assert torch.equal(staging.wait(3), data[300:400].float())
    staging.close()


def test_file_that_ends_early(numbers: tuple[Path, Any]) -> None:
    file, _ = numbers
    os.truncate(file, 1500)
    staging = Staging(transfers(file), lambda: False, piece_bytes=PIECE)
    staging.start()
    with pytest.raises(EngineError, match="became shorter") as caught:
        [staging.wait(index) for index in range(10)]
    assert caught.value.code == "load_failed"
    staging.close()


def test_missing_file_is_told_at_the_start(tmp_path: Path) -> None:
    staging = Staging(transfers(tmp_path / "none"), lambda: False)
    with pytest.raises(FileNotFoundError):
        staging.start()
    staging.close()


def test_cancelling_wakes_who_waits(
    numbers: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = numbers
    stuck, cancelled = threading.Event(), threading.Event()
    theirs = os.preadv

    def read(*arguments: Any) -> int:
        cancelled.set()
        stuck.wait()
        return theirs(*arguments)

    monkeypatch.setattr(os, "preadv", read)
    staging = Staging(transfers(file), cancelled.is_set, piece_bytes=PIECE)
    staging.start()
    with pytest.raises(LoadCancelledError):
        staging.wait(0)
    stuck.set()
    staging.close()


def test_close_ends_every_thread_and_gives_the_files_back(
    numbers: tuple[Path, Any],
) -> None:
    file, _ = numbers
    staging = Staging(transfers(file), lambda: False, piece_bytes=8)
    staging.start()
    staging.wait(0)
    staging.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("weights-")]
    descriptors = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    assert str(file) not in [os.readlink(d) for d in descriptors if d.is_symlink()]


@pytest.mark.parametrize("columns", [32, 96])
def test_columns_are_reordered_as_the_library_does(columns: int) -> None:
    cuda_stack.use_cpu_extension()
    import exllamav2_ext

    rng = np.random.default_rng(columns)
    order = torch.from_numpy(rng.permutation(columns).astype(np.int32))
    ours = DeviceReordering(exllamav2_ext)
    for name, width in (("tensor_remap", columns), ("tensor_remap_4bit", columns // 8)):
        words = rng.integers(-(1 << 31), 1 << 31, (5, width), dtype=np.int64)
        expected = torch.from_numpy(words.astype(np.int32))
        found = expected.clone()
        getattr(exllamav2_ext, name)(expected, order)
        getattr(ours, name)(found, order)
        assert torch.equal(found, expected), name
