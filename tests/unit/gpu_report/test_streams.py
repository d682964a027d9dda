"""Both sides of the benchmark, over a model on the CPU: the same tokens are counted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from tests.gpu.bench.measure import Streams, decode_speed, prefill_time
from tests.gpu.bench.streams import EngineStreams, PlainStreams
from tests.gpu.models import TINY, write_tiny
from tests.unit.exllamav2.torch_engine import driving, loaded_of

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Streams:
    """The library's own generator and tokenizer."""
    import exllamav2
    import exllamav2.generator as library

    loaded = loaded_of(folder, 4096)
    generator = library.ExLlamaV2DynamicGenerator(
        model=loaded.model,
        cache=loaded.cache,
        tokenizer=exllamav2.ExLlamaV2Tokenizer(loaded.config),
        max_batch_size=4,
    )
    generator.warmup()
    return PlainStreams(library, generator, TINY.vocab)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[Streams]:
    with driving(folder) as driver:
        yield EngineStreams(driver, TINY.vocab)


@pytest.fixture(params=["plain", "ours"])
def streams(request: pytest.FixtureRequest) -> Streams:
    found: Streams = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("batch", [1, 4])
def test_streams_get_exactly_what_they_asked_for(streams: Streams, batch: int) -> None:
    """`decode_speed` raises where they do not, or where they wait for each other."""
    speed, ttft = decode_speed(streams, batch, new_tokens=40)
    assert speed > 0
    assert ttft > 0
    assert not streams.busy()


def test_a_prompt_s_first_token_is_timed(streams: Streams) -> None:
    assert prefill_time(streams, 600) > 0
    assert not streams.busy()
