"""The benchmark counts what an engine does."""

from pathlib import Path

import pytest

from tests.gpu.bench.measure import decode_speed, prefill_time, prompts
from tests.gpu.bench.stack import load, running_stack, streamed
from tests.gpu.bench.streams import EngineStreams
from tests.support.synthetic_model import ModelShape, write_synthetic
from tests.unit.reference.support import loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "synthetic"
    shape = ModelShape(
        hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1, head_dim=32,
        vocab=9000, context=1024,
    )  # fmt: skip
    write_synthetic(target, shape)
    return target


def test_measures_streams_that_decode_at_once(folder: Path) -> None:
    with loaded(folder, slots=3, cache_tokens=2048) as engine:
        speed, ttft = decode_speed(EngineStreams(engine, 9000), 3, new_tokens=20)
        assert engine.stats().generated_tokens == 60
    assert speed > 0
    assert ttft > 0


def test_says_that_streams_did_not_decode_at_once(folder: Path) -> None:
    with (
        loaded(folder, slots=1, cache_tokens=2048) as engine,
        pytest.raises(RuntimeError, match="never all decoded at once"),
    ):
        decode_speed(EngineStreams(engine, 9000), 2, new_tokens=20)


def test_measures_a_prompt(folder: Path) -> None:
    with loaded(folder, slots=1, cache_tokens=2048) as engine:
        assert prefill_time(EngineStreams(engine, 9000), 500) > 0
        assert engine.stats().prompt_tokens == 500


def test_no_prompt_shares_a_prefix_with_another() -> None:
    drawn = [p for seed in range(3) for p in prompts(9000, 4, 40, seed)]
    assert len({tuple(prompt[:4]) for prompt in drawn}) == 12


@pytest.mark.allow_blocking
async def test_counts_what_comes_through_the_whole_stack(folder: Path) -> None:
    with running_stack(folder, {"slots": 3}, {}) as gateway:
        await load(gateway.url, folder.name)
        clock = await streamed(gateway.url, folder.name, 9000, 3, new_tokens=50)
    assert clock.got == {"0": 50, "1": 50, "2": 50}
