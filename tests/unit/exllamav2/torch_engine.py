"""The engine over a model on the CPU: all of it but the loading.

To be imported after `cuda_stack.use_cpu_extension()`.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from neuron.engines.base import LoadSpec, ProgressCallback
from neuron.engines.exllamav2.backend import load_backend
from neuron.engines.exllamav2.engine import ExLlamaV2Engine
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.vision import Eyes
from tests.unit.reference.support import info_of

load_backend()
torch.set_num_threads(1)  # the tests run in parallel as it is

from exllamav2.generator import dynamic

from neuron.engines.exllamav2.driver import GenerationDriver as GenerationDriver
from neuron.engines.exllamav2.generator import DecodeSteps
from tests.support.torch_model import Call as Call, TorchCache, TorchModel


@dataclass(frozen=True, slots=True)
class TorchMemory:
    """What `loading.MeasuredMemory` says, as far as the driver asks."""

    total: int


@dataclass(frozen=True, slots=True)
class TorchLoaded:
    """As `loading.LoadedModel`."""

    model: TorchModel
    cache: TorchCache
    memory: TorchMemory
    tokenizer: None = None
    eyes: Eyes | None = None
    loras: tuple[()] = ()

    @property
    def config(self) -> Any:
        return self.model.config


@cache
def model_of(folder: Path) -> TorchModel:
    """Loaded once per process; hooks that a test sets on it are the test's to undo."""
    return TorchModel.load(folder)


def loaded_of(folder: Path, tokens: int) -> Any:
    """The model with a cache of its own."""
    model = model_of(folder)
    cache = TorchCache(model, tokens)
    size = sum(tensor.nbytes for tensor in cache.all_tensors())
    return TorchLoaded(model, cache, TorchMemory(size))


@contextmanager
def driving(
    folder: Path,
    *,
    slots: int = 4,
    max_seq_len: int | None = None,
    cache_tokens: int = 4096,
    levers: Levers | None = None,
    page_size: int | None = None,
    chunk: int | None = None,
    steps: Callable[[TorchLoaded], DecodeSteps] | None = None,
    eyes: Eyes | None = None,
) -> Iterator[GenerationDriver]:
    """A driver of the model; `page_size` and `chunk` replace the library's page and
    what an idle engine prefills at once; `steps` makes what computes decode steps;
    `eyes` look at images."""
    loaded = replace(loaded_of(folder, cache_tokens), eyes=eyes)
    spec = LoadSpec(
        info_of(folder),
        max_seq_len or loaded.model.ours.context,
        slots,
        "fp16",
        cache_tokens,
    )
    with pytest.MonkeyPatch.context() as patch:
        if page_size is not None:
            patch.setattr(dynamic, "PAGED_PAGE_SIZE", page_size)
        if chunk is not None:
            patch.setattr(loaded.config, "max_input_len", chunk)
        made = None if steps is None else steps(loaded)
        driver = GenerationDriver(loaded, spec, levers or Levers(), made)
        try:
            yield driver
        finally:
            driver.close()


def stretched(folder: Path, target: Path, context: int) -> Path:
    """A copy of a model folder that says of itself to have a longer context."""
    shutil.copytree(folder, target)
    config = target / "config.json"
    raw = json.loads(config.read_text(encoding="utf-8"))
    raw["max_position_embeddings"] = context
    config.write_text(json.dumps(raw), encoding="utf-8")
    return target


class TorchEngine(ExLlamaV2Engine):
    """The engine itself, with a model that needs no GPU."""

    before_call: ClassVar[Callable[[Call], None]] = staticmethod(lambda call: None)
    """Called with every forward pass, and may raise."""

    def _load_model(
        self,
        spec: LoadSpec,
        levers: Levers,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> Any:
        progress("weights", 1, 1)
        loaded = loaded_of(spec.info.path, spec.cache_tokens)
        loaded.model.before_call = type(self).before_call
        return loaded

    def _decode_steps(
        self, loaded: object, levers: Levers, report: Callable[[int, int], None]
    ) -> None:
        pass

    def _settle(self, loaded: object) -> None:
        pass

    def _free(self, loaded: object) -> None:
        pass


def assert_page_table_holds(driver: GenerationDriver) -> None:
    """What the library's page table relies on, and what it says of the cache is so."""
    generator = driver.generator
    tables = (generator.referenced_pages, generator.unreferenced_pages)
    pages = [page for table in tables for page in table.values()]
    assert sorted(page.page_index for page in pages) == list(range(generator.max_pages))
    held = Counter(
        page.page_index
        for sequence in driver._scheduler.everyone()
        if sequence.job is not None
        for page in sequence.job.sequences[0].allocated_pages or ()
    )
    for table in tables:
        for name, page in table.items():
            assert page.phash == name
            assert page.ref_count == held[page.page_index]
            assert (page.ref_count > 0) == (table is generator.referenced_pages)
    for page in pages:
        # The library's own names for what is not to be found begin with zeros.
        if page.kv_position == generator.page_size and page.phash[:8] != bytes(8):
            contents = dynamic._tensor_hash_checksum(page.sequence, page.prev_hash)
            assert page.phash == contents
