"""Each lever changes speed and no result beyond rounding."""

from collections.abc import Callable
from pathlib import Path

import pytest

from neuron.engines.base import Engine
from neuron.engines.exllamav2.levers import PREFIX
from tests.gpu.agreement import FP16, Reference
from tests.gpu.loads import loaded
from tests.gpu.prompts import prompt_of
from tests.gpu.script import changed_levers
from tests.unit.reference.support import generate, request

FEW = (1, 3, 8)
MANY = 40
"""Streams at once."""


@pytest.fixture
def set_lever(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`set_lever("cuda_graphs=off")`, for engines that are loaded afterwards."""

    def change(changed: str) -> None:
        name, _, value = changed.partition("=")
        monkeypatch.setenv(PREFIX + name.upper(), value)

    return change


@pytest.fixture
def check(
    engine_class: type[Engine], tiny: Callable[..., Path], reference: Reference
) -> Callable[..., None]:
    """`check(1, 3)` holds one stream and then three against the CPU engine."""

    def run(*batches: int) -> None:
        slots, folder = max(batches), tiny()
        fields = {"slots": slots, "cache_tokens": 3 * 256 * slots}
        with loaded(engine_class, folder, **fields) as engine:
            for streams in batches:
                prompts = {
                    f"r{n}": prompt_of(30 + 480 * n // slots, seed=100 * streams + n)
                    for n in range(streams)
                }
                wanted = [request(k, p, 24, top_logprobs=0) for k, p in prompts.items()]
                outputs = generate(engine, *wanted)
                for name, prompt in prompts.items():
                    found = reference.judge(folder, prompt, outputs[name], FP16)
                    found.check(FP16)

    return run


def test_all_at_their_defaults(check: Callable[..., None]) -> None:
    check(*FEW)


@pytest.mark.parametrize("changed", changed_levers())
def test_one_changed(
    set_lever: Callable[[str], None], check: Callable[..., None], changed: str
) -> None:
    set_lever(changed)
    check(*FEW)


@pytest.mark.parametrize("changed", ["cuda_graphs=on", "triton_gemm=on"])
def test_more_rows_than_the_library_multiplies_packed(
    set_lever: Callable[[str], None], check: Callable[..., None], changed: str
) -> None:
    """Beyond 32 it dequantizes first, and leaves the product to cuBLAS."""
    set_lever(changed)
    check(MANY)


def test_nothing_but_the_library(
    set_lever: Callable[[str], None], check: Callable[..., None]
) -> None:
    for changed in changed_levers():
        if changed.endswith("=off"):
            set_lever(changed)
    check(*FEW)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every decode step that a recorded graph computed."""
    from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs

    rows: list[int] = []
    own = DecodeGraphs.forward

    def forward(self: DecodeGraphs, ids: object, *more: object) -> object:
        rows.append(len(ids))  # type: ignore[arg-type]
        return own(self, ids, *more)

    monkeypatch.setattr(DecodeGraphs, "forward", forward)
    return rows


def test_steps_really_are_repeated_graphs(
    engine_class: type[Engine], tiny: Callable[..., Path], graphs: list[int]
) -> None:
    with loaded(engine_class, tiny(), slots=8, cache_tokens=8192) as engine:
        graphs.clear()
        generate(engine, *(request(f"r{n}", prompt_of(9, n), 20) for n in range(5)))
    assert max(graphs) == 5
    assert len(graphs) >= 19
