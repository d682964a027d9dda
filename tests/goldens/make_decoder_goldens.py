"""Make the golden results of exllamav2's decoders with Hugging Face transformers.

    python -m venv ../goldens && ../goldens/bin/pip install torch transformers numpy
    ../goldens/bin/python -m tests.goldens.make_decoder_goldens

Run from the root of the repository. transformers is not needed to run the tests.
Everything is computed in float32 from weights that were rounded to float16.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from neuron.exl2 import open_model
from tests.goldens.decoders import FILE, dense
from tests.goldens.tiny_models import hashed, write_folder

VOCAB: Final = 512
TOKENS: Final = 45
WINDOW: Final = 20
BASE: Final = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
NORMED: Final = {"head_dim": 64}
"""The library normalizes whole warps of them."""
DERIVED: Final = {"head_dim": None, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Of those that have no `head_dim`: as many numbers as the hidden state has."""
WHOLE: Final = {**DERIVED, "num_attention_heads": 1}
"""One head, for the same reason."""
WINDOWED: Final = {"sliding_window": WINDOW}
EXPERTS: Final = {"num_experts_per_tok": 2, "sliding_window": None}
YARN: Final = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LLAMA3: Final = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("Llama", {}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral-window": ("Mistral", WINDOWED),
    "mixtral": ("Mixtral", EXPERTS | {"num_local_experts": 4}),
    "qwen2": ("Qwen2", DERIVED),
    "qwen3": ("Qwen3", NORMED),
    "qwen3-moe": ("Qwen3Moe", NORMED | EXPERTS | {
        "num_experts": 4, "moe_intermediate_size": 64, "norm_topk_prob": True,
    }),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", WINDOWED | {"query_pre_attn_scalar": 24}),
    "cohere": (
        "Cohere",
        WHOLE | {"logit_scale": 0.25, "use_qk_norm": True},
    ),
    "cohere2": ("Cohere2", WINDOWED | {
        "layer_types": ["sliding_attention", "full_attention"], "logit_scale": 0.5,
    }),
    "phi3-window": ("Phi3", DERIVED | WINDOWED),
    "granite": ("Granite", {
        "embedding_multiplier": 2.0, "attention_multiplier": 0.2,
        "residual_multiplier": 0.6, "logits_scaling": 3.0,
    }),
    "glm4": ("Glm4", {"attention_bias": True}),
    "starcoder2-window": ("Starcoder2", DERIVED | WINDOWED | {"use_bias": True}),
}  # fmt: skip


def made(name: str) -> dict[str, Any]:
    """One decoder, as the file has it."""
    family, changes = CASES[name]
    fields = {
        k: v for k, v in (BASE | changes).items() if v is not None or k not in BASE
    }
    config = getattr(transformers, f"{family}Config")(**fields)
    kind = getattr(transformers, f"{family}ForCausalLM")
    prompt = [int((n + 1) / 2 * VOCAB) for n in hashed(f"{name}/prompt", (TOKENS,))]
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary, "saved")
        kind._from_config(config).half().save_pretrained(saved)
        said = json.loads((saved / "config.json").read_text(encoding="utf-8"))
        del said["transformers_version"]
        specs = open_model(saved).specs
        shapes = {key: tuple(specs[key].shape) for key in sorted(specs)}
        folder = write_folder(Path(temporary, "ours"), said, dense(said, shapes))
        model, problems = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager",
            output_loading_info=True,
        )  # fmt: skip
    assert not problems["missing_keys"], problems
    assert not problems["unexpected_keys"], problems
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([prompt])).logits[0]
    scores = torch.log_softmax(logits, -1).numpy()
    chosen = scores[np.arange(TOKENS - 1), prompt[1:]]
    return {
        "config": said,
        "shapes": shapes,
        "prompt": prompt,
        "chosen": [round(float(score), 5) for score in chosen],
    }


def main() -> None:
    """Write all of them."""
    lines = [f"{json.dumps(name)}: {json.dumps(made(name))}" for name in CASES]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
