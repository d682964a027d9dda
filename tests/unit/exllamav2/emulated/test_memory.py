"""What a load takes is what was planned, part by part, and all of it comes back."""

import gc
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.exllamav2.memory.allocator import reserved_bytes
from neuron.engines.exllamav2.memory.modules import ALIGNMENT
from tests.goldens.decoders import decoders, dense, packed
from tests.goldens.tiny_models import write_folder
from tests.unit.exllamav2 import hollow
from tests.unit.exllamav2.emulated.support import TIMEOUT, running
from tests.unit.exllamav2.loading.support import live_bytes, tensors_of
from tests.unit.reference.support import generate, request

pytestmark = TIMEOUT
LOADS = 3
NAMES = ("qwen3-moe", "gemma2", "cohere2")


def write(folder: Path, name: str, kind: str) -> Path:
    decoder = decoders()[name]
    contents = {"exl2": packed, "fp16": dense}[kind](decoder.config, decoder.shapes)
    write_folder(folder, dict(decoder.config), contents)
    hollow.with_the_bundled_tokenizer(folder)
    return folder


def storages(tensors: Iterable[Any]) -> list[int]:
    """Bytes of each block of memory that they share."""
    blocks = [tensor.untyped_storage() for tensor in tensors]
    return list({block.data_ptr(): block.nbytes() for block in blocks}.values())


@pytest.mark.parametrize("kind", ["exl2", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_as_planned(tmp_path: Path, name: str, kind: str) -> None:
    folder = write(tmp_path / "m", name, kind)
    mode = "q8" if kind == "exl2" else "fp16"
    with running(folder, slots=2, cache_mode=mode, cache_tokens=2048) as engine:
        loaded = engine._require().loaded
        [need] = loaded.placed.needs
        shared = getattr(loaded.cache, "temp_tensors", {}).values()
        cache = [*loaded.cache.all_tensors(), *(t for pair in shared for t in pair)]
        [context] = loaded.model.device_context
        scratch = [*context.sin, *context.cos]
        scratch += [] if context.scratch is None else [context.scratch]
        assert reserved_bytes(storages(cache)) == need.parts["cache"]
        assert reserved_bytes(storages(scratch)) == need.parts["scratch"]
        model = loaded.requirements.model
        planned = sum(
            module.arena_bytes + module.loose_bytes for module in model.modules
        )
        weights = tensors_of(loaded.model).values()
        # Every tensor is aligned within a block, as every block is.
        assert 0 <= planned - sum(storages(weights)) < ALIGNMENT * len(weights)


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Objects of the extension that were made and not freed yet, by kind."""
    import exllamav2
    from exllamav2.ext import exllamav2_ext as extension

    found: Counter[str] = Counter()

    class Counted:
        def __getattr__(self, name: str) -> Any:
            theirs = getattr(extension, name)
            act, _, kind = name.partition("_")
            if act not in ("make", "free") or not kind.startswith("q_"):
                return theirs

            def count(*given: Any) -> Any:
                found[kind] += 1 if act == "make" else -1
                return theirs(*given)

            return count

    library = exllamav2
    for module in (
        library.ext, library.linear, library.attn, library.mlp, library.moe_mlp,
    ):  # fmt: skip
        monkeypatch.setattr(module, "ext_c", Counted())
    return found


@pytest.mark.parametrize("name", ["qwen3", "qwen3-moe"])
def test_loads_one_after_the_other_leave_nothing(
    tmp_path: Path, living: Counter[str], name: str
) -> None:
    folder = write(tmp_path / "m", name, "exl2")
    before, made = live_bytes(), Counter[str]()
    for _ in range(LOADS):
        with running(folder, slots=2) as engine:
            assert generate(engine, request("a", range(3, 40), 2))["a"].tokens
            made += living
        del engine
        assert not living.total()
        gc.collect()
        assert live_bytes() == before
    assert made["q_matrix"] >= LOADS * 7 * 2
    assert made["q_attn"] == LOADS * 2
