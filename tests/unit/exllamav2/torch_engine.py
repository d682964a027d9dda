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
from typing import Any, ClassVar, Final

import pytest
import torch

from neuron.engines.base import LoadSpec, ProgressCallback
from neuron.engines.exllamav2.backend import load_backend
from neuron.engines.exllamav2.engine import ExLlamaV2Engine
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.vision.eyes import Eyes
from neuron.protocol.types import LoadOptions
from tests.unit.reference.support import info_of

load_backend()
torch.set_num_threads(1)  # the tests run in parallel as it is

from exllamav2.generator import dynamic

from neuron.engines.exllamav2.driver import GenerationDriver as GenerationDriver
from neuron.engines.exllamav2.generator import DecodeSteps
from tests.support.torch_model import Call as Call, TorchCache, TorchModel

_NO_OPTIONS: Final = LoadOptions()


@dataclass(frozen=True, slots=True)
class TorchMemory:
    """What `loading.MeasuredMemory` says, as far as the driver asks."""

    total: int


@dataclass(frozen=True, slots=True)
class TorchDraft:
    """As `loading.LoadedDraft`."""

    model: TorchModel
    cache: TorchCache

    @property
    def config(self) -> Any:
        return self.model.config


@dataclass(frozen=True, slots=True)
class TorchLoaded:
    """As `loading.LoadedModel`."""

    model: TorchModel
    cache: TorchCache
    memory: TorchMemory
    tokenizer: None = None
    eyes: Eyes | None = None
    loras: tuple[()] = ()
    draft: TorchDraft | None = None

    @property
    def config(self) -> Any:
        return self.model.config


@cache
def model_of(folder: Path) -> TorchModel:
    """Loaded once per process; hooks that a test sets on it are the test's to undo."""
    return TorchModel.load(folder)


def loaded_of(folder: Path, tokens: int, draft: Path | None = None) -> Any:
    """The model with a cache of its own, and maybe one that drafts."""
    model = model_of(folder)
    cache = TorchCache(model, tokens)
    size = sum(tensor.nbytes for tensor in cache.all_tensors())
    guesser = None
    if draft is not None:
        drafting = TorchModel.load(draft)  # its passes are counted by themselves
        guesser = TorchDraft(drafting, TorchCache(drafting, tokens))
    return TorchLoaded(model, cache, TorchMemory(size), draft=guesser)


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
    draft_steps: Callable[[TorchLoaded], DecodeSteps] | None = None,
    eyes: Eyes | None = None,
    options: LoadOptions = _NO_OPTIONS,
    draft: Path | None = None,
) -> Iterator[GenerationDriver]:
    """A driver of the model; `page_size` and `chunk` replace the library's page and
    what an idle engine prefills at once; `steps` and `draft_steps` make what computes
    decode steps; `eyes` look at images; `draft` is the folder of a model that drafts.
    """
    loaded = replace(loaded_of(folder, cache_tokens, draft), eyes=eyes)
    spec = LoadSpec(
        info_of(folder),
        max_seq_len or loaded.model.ours.context,
        slots,
        "fp16",
        cache_tokens,
        options=options,
    )
    with pytest.MonkeyPatch.context() as patch:
        if page_size is not None:
            patch.setattr(dynamic, "PAGED_PAGE_SIZE", page_size)
        if chunk is not None:
            patch.setattr(loaded.config, "max_input_len", chunk)
        made = None if steps is None else steps(loaded)
        drafted = None if draft_steps is None else draft_steps(loaded)
        driver = GenerationDriver(loaded, spec, levers or Levers(), made, drafted)
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
    ) -> tuple[None, None]:
        return None, None

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
        for sequence in driver._scheduler._roster.everyone
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
