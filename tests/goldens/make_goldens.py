"""Make the golden logits of the reference engine with Hugging Face transformers.

    python -m venv ../goldens && ../goldens/bin/pip install torch transformers numpy
    ../goldens/bin/python -m tests.goldens.make_goldens

Run from the root of the repository. Neither torch nor transformers is needed to run
the tests. Everything is computed in float32 from the same dequantized weights.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from neuron.exl2 import TensorDirectory, open_model
from tests.goldens.tiny_models import TINY_MODELS, tensors

HERE = Path(__file__).parent
BUNDLED = HERE.parents[1] / "neuron" / "models" / "bundled" / "tinystories-15m"

PROMPTS = {
    "short": [1, 4537, 1870, 263, 819],
    "long": [1, *(7 * i * i % 8000 + 300 for i in range(150))],
}
"""Token ids; the long one goes over many pages of the KV cache."""


def dequantized(source: TensorDirectory) -> dict[str, NDArray[Any]]:
    """The tensors as transformers knows them."""
    state = {}
    for name in source.specs:
        key, _, kind = name.rpartition(".")
        if kind == "q_weight":
            state[f"{key}.weight"] = source.linear(key).dequantize().T
        elif kind in ("weight", "bias"):
            state[name] = source.read(name)
    return state


def logits(
    config: Mapping[str, Any],
    state: Mapping[str, NDArray[Any]],
    prompt: Sequence[int],
) -> NDArray[np.float32]:
    """[tokens, vocab]"""
    kind = dict(config)
    settings = transformers.AutoConfig.for_model(kind.pop("model_type"), **kind)
    model = transformers.AutoModelForCausalLM.from_config(
        settings, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    parameters = {
        name: torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
        for name, array in state.items()
    }
    # EXL2 stores a head even where the embedding is tied: not to be loaded into that.
    head = parameters.pop("lm_head.weight", None)
    problems = model.load_state_dict(parameters, strict=False)
    absent = {*problems.missing_keys} - {"lm_head.weight"}
    assert not absent, absent
    assert not problems.unexpected_keys, problems.unexpected_keys
    if head is not None:
        model.lm_head.weight = torch.nn.Parameter(head[: settings.vocab_size])
    else:
        assert settings.tie_word_embeddings
    with torch.no_grad():
        output = model(input_ids=torch.tensor([list(prompt)])).logits[0]
    array: NDArray[np.float32] = output.numpy()
    return array


def main() -> None:
    """Write tiny.npz and bundled.npz beside this file."""
    tiny: dict[str, Any] = {
        model.name: logits(model.config, tensors(model), model.prompt)
        for model in TINY_MODELS
    }
    np.savez_compressed(HERE / "tiny.npz", **tiny)
    config = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))
    state = dequantized(open_model(BUNDLED))
    bundled: dict[str, Any] = {}
    for name, prompt in PROMPTS.items():
        places = np.linspace(0, len(prompt) - 1, 4).astype(int)
        bundled[f"{name}.prompt"] = np.array(prompt)
        bundled[f"{name}.positions"] = places
        bundled[f"{name}.logits"] = logits(config, state, prompt)[places]
    np.savez_compressed(HERE / "bundled.npz", **bundled)


if __name__ == "__main__":
    main()
