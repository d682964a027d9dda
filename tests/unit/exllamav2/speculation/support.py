"""Models that guess for a tiny one, and what came of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from neuron.protocol.types import LoadOptions
from tests.goldens.tiny_models import tensors, write_folder
from tests.support import cuda_stack
from tests.unit.exllamav2.torch_engine import GenerationDriver
from tests.unit.reference.support import tiny

TIMEOUT = pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S)
"""Of tests that may be the first to need the extension."""
PAGE: Final = 16
CONTEXT: Final = 640
PROMPT: Final = tuple(range(3, 23))
GUESSES: Final = 4
NGRAM: Final = LoadOptions(ngram=True, draft_tokens=GUESSES)
DRAFT: Final = LoadOptions(draft="draft", draft_tokens=GUESSES)

Driving = Callable[..., AbstractContextManager[GenerationDriver]]
"""As `torch_engine.driving`."""


def made(
    folder: Path, *, layers: int = 2, vocab: int = 96, context: int = CONTEXT
) -> Path:
    """A tiny model; with fewer layers, or an embedding that is cut off or padded, it is
    another one with the same tokens."""
    model = tiny("llama-gqa-tied-linear")
    changed = {
        "max_position_embeddings": context,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
    }
    contents = tensors(model)
    embedding = contents["model.embed_tokens.weight"]
    contents["model.embed_tokens.weight"] = np.resize(embedding, (vocab, 64))
    return write_folder(folder, model.config | changed, contents)


def guesses(driver: GenerationDriver) -> tuple[int, int]:
    """Right and wrong ones."""
    stats = driver.stats()
    return stats.accepted_draft_tokens, stats.rejected_draft_tokens
