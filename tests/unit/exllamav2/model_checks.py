"""The bundled model's logits by the library itself, from its kernels on the CPU.

To be imported where Triton's kernels are interpreted, or where they are not and plain
torch attends in their stead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from neuron.models.bundled import bundled_root
from neuron.models.inspect import inspect_model
from tests.support.emulated_devices import emulated_devices
from tests.unit.exllamav2.loading.support import load, spec_of

FOLDER = bundled_root() / "tinystories-15m"


def logits_of(read: Sequence[int], chunk: Sequence[int]) -> Any:
    """[tokens of the chunk, vocab], float32, after tokens that are but read."""
    with the_model() as loaded:
        if read:
            loaded.model.forward(
                torch.tensor([read]), loaded.cache, preprocess_only=True
            )
        logits = loaded.model.forward(torch.tensor([chunk]), loaded.cache)[0]
        return logits.float().numpy()


def continuation_of(prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest token, again and again."""
    with the_model() as loaded:
        tokens, vocab = list(prompt), loaded.config.vocab_size
        while len(tokens) < len(prompt) + count:
            new = torch.tensor([tokens[loaded.cache.current_seq_len :]])
            logits = loaded.model.forward(new, loaded.cache, last_id_only=True)
            tokens.append(int(logits[0, -1, :vocab].argmax()))
        return tokens[len(prompt) :]


@contextmanager
def the_model() -> Iterator[Any]:
    """Loaded by our loader."""
    with emulated_devices() as backend, torch.inference_mode():
        yield load(backend, spec_of(inspect_model(FOLDER, "bundled")))
