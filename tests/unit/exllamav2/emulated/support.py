"""The engine, all of it, over emulated devices: plan, load, generate.

Nothing is recorded as a CUDA graph, and nothing warmed up for one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from neuron.engines.base import HostMemory
from neuron.engines.exllamav2.levers import PREFIX
from neuron.engines.exllamav2.memory.model import CONTEXT_BYTES
from neuron.models.inspect import inspect_model
from neuron.protocol.types import LoadRequest
from tests.gpu.loads import spec_of
from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.exllamav2.engine import ExLlamaV2Engine
from neuron.engines.exllamav2.loading.load import STARTING_BYTES as STARTING_BYTES
from tests.support.emulated_devices import GIB, emulated_devices

TIMEOUT: Final = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 120)
_OFF: Final = ("CUDA_GRAPHS", "WARMUP")


@contextmanager
def running(
    folder: Path,
    *,
    free: Sequence[int] = (GIB,),
    draft: Path | None = None,
    **fields: Any,
) -> Iterator[ExLlamaV2Engine]:
    """An engine with the model loaded.

    Args:
        folder: the model.
        free: bytes free on each device, once CUDA has started there.
        draft: the model that guesses.
        fields: those of `LoadRequest`.
    """
    info = inspect_model(folder, folder.name)
    guesser = None if draft is None else inspect_model(draft, draft.name)
    name = None if guesser is None else guesser.id
    started = CONTEXT_BYTES - STARTING_BYTES
    before = {device: room + started for device, room in enumerate(free)}
    with pytest.MonkeyPatch.context() as patch, emulated_devices(free):
        for lever in _OFF:
            patch.setenv(f"{PREFIX}{lever}", "off")
        assert ExLlamaV2Engine.supports(info) is None
        request = LoadRequest(model=info.id, draft=name, **fields)
        plan = ExLlamaV2Engine.plan(info, request, HostMemory(None, before), guesser)
        assert plan.fits, plan.reason
        engine = ExLlamaV2Engine()
        spec = spec_of(plan, info, guesser)
        engine.load(spec, lambda *_: None, lambda: False)
        try:
            yield engine
        finally:
            engine.unload()
