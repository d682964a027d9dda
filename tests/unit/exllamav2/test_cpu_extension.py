"""exllamav2's extension, built for the CPU: what the generator calls of it."""

from pathlib import Path

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")
import numpy as np
import torch

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]


@pytest.fixture(autouse=True)
def _extension() -> None:
    cuda_stack.use_cpu_extension()


def test_exllamav2_and_its_generator_can_be_imported() -> None:
    import exllamav2.generator

    assert exllamav2.__version__ == "0.3.2"


def test_count_match_finds_the_first_difference() -> None:
    import exllamav2_ext

    page = torch.tensor([[5, 6, 7, 8]])
    assert exllamav2_ext.count_match(page, torch.tensor([[5, 6, 9, 8]]), 4) == 2
    assert exllamav2_ext.count_match(page, page, 3) == 3


def test_partial_strings_match_tells_full_partial_and_none() -> None:
    import exllamav2_ext

    def match(text: str) -> int:
        held = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint8)
        stop = np.frombuffer("stop".encode("utf-32-le"), dtype=np.uint8)
        ends = np.array([0, stop.size], dtype=np.int32).view(np.uint8)
        return int(exllamav2_ext.partial_strings_match(held, ends, stop))

    assert match("go on, stop") == len("go on, ")
    assert match("go on, st") == -2
    assert match("go on") == -1


def test_sample_basic_takes_the_likeliest_at_top_k_one() -> None:
    import exllamav2_ext

    logits = torch.zeros(1, 1, 64)
    logits[0, 0, 42] = 5.0
    none = torch.empty((1, 1), device="meta")
    token = torch.zeros((1, 1), dtype=torch.long)
    probability = torch.zeros(1, 1)
    exllamav2_ext.sample_basic(
        logits, 1.0, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, token, probability,
        none, none, none, False, [], 1.5, 0.1, 1.0, none,
        0.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0,
    )  # fmt: skip
    assert token.item() == 42
    assert probability.item() == pytest.approx(1.0)


def test_cache_rotate_moves_pages_along_the_order() -> None:
    import exllamav2_ext

    cache = torch.arange(5 * 4096, dtype=torch.int).view(5, -1)
    before = cache.clone()
    order = torch.tensor([1, 3, 4], dtype=torch.int)
    exllamav2_ext.cache_rotate(cache, order, torch.empty_like(cache[0]))
    for page, source in enumerate([0, 3, 2, 4, 1]):
        assert torch.equal(cache[page], before[source])


def test_stloader_reads_a_span_of_a_file(tmp_path: Path) -> None:
    import exllamav2_ext

    values = torch.arange(1000, dtype=torch.int)
    file = tmp_path / "numbers"
    file.write_bytes(values.numpy().tobytes())
    span = torch.zeros(100, dtype=torch.int)
    exllamav2_ext.stloader_read(str(file), 4 * 500, 4 * 100, span)
    assert torch.equal(span, values[500:600])
