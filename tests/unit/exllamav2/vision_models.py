"""Folders of tiny vision models, one of each family, with random weights."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from neuron.models.bundled import bundled_root
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model
from tests.support.synthetic_model import ModelShape
from tests.unit.exllamav2 import hollow

TEXT: Final = ModelShape(
    hidden=96, intermediate=96, layers=1, heads=2, kv_heads=1, head_dim=64, vocab=96,
    context=512,
)  # fmt: skip
WIDTH: Final = 64
"""Of the towers, with two heads."""
INNER: Final = 96
PATCH: Final = 4

Sizes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """What a model of the family has beside its decoder."""

    architecture: str
    prefix: str
    written: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    tensors: Callable[[], Sizes]
    decoder: Callable[[], Sizes] = dict


def _linear(key: str, inputs: int, outputs: int, *, bias: bool = True) -> Sizes:
    sizes: Sizes = {f"{key}.weight": (outputs, inputs)}
    return sizes | ({f"{key}.bias": (outputs,)} if bias else {})


def _norm(key: str, width: int = WIDTH, *, bias: bool = True) -> Sizes:
    sizes: Sizes = {f"{key}.weight": (width,)}
    return sizes | ({f"{key}.bias": (width,)} if bias else {})


def _pixtral(*, merges: bool) -> Sizes:
    layer = "vision_tower.transformer.layers.0"
    sizes: Sizes = {"vision_tower.patch_conv.weight": (WIDTH, 3, PATCH, PATCH)}
    sizes |= _norm("vision_tower.ln_pre", bias=False)
    for name in ("attention_norm", "ffn_norm"):
        sizes |= _norm(f"{layer}.{name}", bias=False)
    for name in "qkvo":
        sizes |= _linear(f"{layer}.attention.{name}_proj", WIDTH, WIDTH, bias=False)
    for name, ins, outs in (
        ("gate", WIDTH, INNER), ("up", WIDTH, INNER), ("down", INNER, WIDTH)
    ):  # fmt: skip
        sizes |= _linear(f"{layer}.feed_forward.{name}_proj", ins, outs, bias=False)
    projector = "multi_modal_projector"
    if merges:
        sizes |= _norm(f"{projector}.norm", bias=False)
        sizes |= _linear(
            f"{projector}.patch_merger.merging_layer", 4 * WIDTH, WIDTH, bias=False
        )
    for name, inputs in (("linear_1", WIDTH), ("linear_2", TEXT.hidden)):
        key = f"{projector}.{name}"
        sizes |= _linear(key, inputs, TEXT.hidden, bias=not merges)
    return sizes


def _qwen(*, newer: bool) -> Sizes:
    layer = "visual.blocks.0"
    sizes: Sizes = {"visual.patch_embed.proj.weight": (WIDTH, 3, 2, PATCH, PATCH)}
    for name in ("norm1", "norm2"):
        sizes |= _norm(f"{layer}.{name}", bias=not newer)
    sizes |= _linear(f"{layer}.attn.qkv", WIDTH, 3 * WIDTH)
    sizes |= _linear(f"{layer}.attn.proj", WIDTH, WIDTH)
    if newer:
        sizes |= _linear(f"{layer}.mlp.gate_proj", WIDTH, INNER)
        sizes |= _linear(f"{layer}.mlp.up_proj", WIDTH, INNER)
        sizes |= _linear(f"{layer}.mlp.down_proj", INNER, WIDTH)
    else:
        sizes |= _linear(f"{layer}.mlp.fc1", WIDTH, 2 * WIDTH)
        sizes |= _linear(f"{layer}.mlp.fc2", 2 * WIDTH, WIDTH)
    sizes |= _norm("visual.merger.ln_q", bias=not newer)
    sizes |= _linear("visual.merger.mlp.0", 4 * WIDTH, 4 * WIDTH)
    return sizes | _linear("visual.merger.mlp.2", 4 * WIDTH, TEXT.hidden)


def _siglip() -> Sizes:
    tower = "vision_tower.vision_model"
    layer = f"{tower}.encoder.layers.0"
    patches = (32 // PATCH) ** 2
    sizes: Sizes = {
        f"{tower}.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        f"{tower}.embeddings.patch_embedding.bias": (WIDTH,),
        f"{tower}.embeddings.position_embedding.weight": (patches, WIDTH),
        "multi_modal_projector.mm_input_projection_weight": (WIDTH, TEXT.hidden),
        "multi_modal_projector.mm_soft_emb_norm.weight": (WIDTH,),
    }
    for name in ("layer_norm1", "layer_norm2"):
        sizes |= _norm(f"{layer}.{name}")
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        sizes |= _linear(f"{layer}.self_attn.{name}", WIDTH, WIDTH)
    sizes |= _linear(f"{layer}.mlp.fc1", WIDTH, INNER)
    sizes |= _linear(f"{layer}.mlp.fc2", INNER, WIDTH)
    return sizes | _norm(f"{tower}.post_layernorm")


def _qwen_decoder() -> Sizes:
    heads = {"q": TEXT.heads, "k": TEXT.kv_heads, "v": TEXT.kv_heads}
    return {
        f"model.layers.0.self_attn.{name}_proj.bias": (count * TEXT.head_dim,)
        for name, count in heads.items()
    }


def _gemma_decoder() -> Sizes:
    layer = "model.layers.0"
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    sizes: Sizes = {f"{layer}.{name}.weight": (TEXT.hidden,) for name in names}
    for name in ("q_norm", "k_norm"):
        sizes[f"{layer}.self_attn.{name}.weight"] = (TEXT.head_dim,)
    return sizes


_CLIP: Final = {
    "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    "resample": 3, "rescale_factor": 1 / 255,
}  # fmt: skip
_PIXTRAL_VISION: Final = {
    "model_type": "pixtral", "patch_size": PATCH, "head_dim": WIDTH // 2,
    "num_attention_heads": 2, "hidden_act": "silu", "hidden_size": WIDTH,
    "rope_theta": 10000.0, "num_hidden_layers": 1, "intermediate_size": INNER,
}  # fmt: skip
_PIXTRAL_IMAGES: Final = {
    **_CLIP, "image_processor_type": "PixtralImageProcessorFast",
    "patch_size": {"height": PATCH, "width": PATCH}, "size": {"longest_edge": 64},
}  # fmt: skip
_QWEN_IMAGES: Final = {
    **_CLIP, "patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2,
    "min_pixels": 256, "max_pixels": 4096,
}  # fmt: skip
_MROPE: Final = {"type": "mrope", "mrope_section": [16, 8, 8]}

FAMILIES: Final = {
    "pixtral": Family(
        "LlavaForConditionalGeneration", "language_model.", "[IMG]",
        {"vision_config": _PIXTRAL_VISION, "vision_feature_layer": -1},
        _PIXTRAL_IMAGES, lambda: _pixtral(merges=False),
    ),
    "mistral3": Family(
        "Mistral3ForConditionalGeneration", "language_model.", "[IMG]",
        {"vision_config": _PIXTRAL_VISION, "vision_feature_layer": -1,
         "spatial_merge_size": 2},
        _PIXTRAL_IMAGES, lambda: _pixtral(merges=True),
    ),
    "qwen2-vl": Family(
        "Qwen2VLForConditionalGeneration", "", "<|image_pad|>",
        {"vision_config": {
            "embed_dim": WIDTH, "mlp_ratio": 2, "num_heads": 2, "patch_size": PATCH,
            "spatial_merge_size": 2, "depth": 1,
         }, "rope_scaling": _MROPE},
        {**_QWEN_IMAGES, "image_processor_type": "Qwen2VLImageProcessorFast"},
        lambda: _qwen(newer=False), _qwen_decoder,
    ),
    "qwen2.5-vl": Family(
        "Qwen2_5_VLForConditionalGeneration", "", "<|image_pad|>",
        {"vision_config": {
            "hidden_size": WIDTH, "intermediate_size": INNER, "num_heads": 2,
            "patch_size": PATCH, "spatial_merge_size": 2, "spatial_patch_size": PATCH,
            "depth": 1, "fullatt_block_indexes": [], "window_size": 32,
         }, "rope_scaling": _MROPE},
        {**_QWEN_IMAGES, "image_processor_type": "Qwen2VLImageProcessor"},
        lambda: _qwen(newer=True), _qwen_decoder,
    ),
    "gemma3": Family(
        "Gemma3ForConditionalGeneration", "language_model.", "<start_of_image>",
        {"vision_config": {
            "model_type": "siglip_vision_model", "patch_size": PATCH,
            "num_attention_heads": 2, "hidden_size": WIDTH, "num_hidden_layers": 1,
            "intermediate_size": INNER,
         }, "mm_tokens_per_image": 16, "query_pre_attn_scalar": 256,
         "sliding_window": 256, "sliding_window_pattern": 6},
        {**_CLIP, "image_processor_type": "Gemma3ImageProcessorFast",
         "size": {"height": 32, "width": 32}},
        _siglip, _gemma_decoder,
    ),
}  # fmt: skip
"""By name. Where a class of processor is `…Fast`, later releases call it so."""


def tower_sizes(name: str) -> Sizes:
    """Tensors that are not the decoder's."""
    return FAMILIES[name].tensors()


def write_vision(folder: Path, name: str, **config: Any) -> ModelInfo:
    """Make a model folder of that family."""
    family = FAMILIES[name]
    decoder: dict[str, Any] = dict(hollow.llama(TEXT, "fp16"))
    decoder |= {key: ("F16", shape) for key, shape in family.decoder().items()}
    tensors = {f"{family.prefix}{key}": entry for key, entry in decoder.items()}
    tensors |= {key: ("BF16", shape) for key, shape in family.tensors().items()}
    whole = hollow.config_of(
        TEXT, "fp16", architectures=[family.architecture], **family.config, **config
    )
    hollow.write(folder, whole, tensors)
    shutil.copy(bundled_root() / "tinystories-15m" / "tokenizer.json", folder)
    _fill(folder / "model.safetensors")
    template = f"{{{{ messages }}}}{family.written}"
    for file, contents in (
        ("preprocessor_config.json", family.preprocessor),
        ("tokenizer_config.json", {"chat_template": template}),
    ):
        (folder / file).write_text(json.dumps(contents), encoding="utf-8")
    return inspect_model(folder, folder.name)


def _fill(file: Path) -> None:
    """Random numbers in place of holes, such that every layer has something to say."""
    raw = np.memmap(file, np.uint8, "r+")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    random = np.random.default_rng(0)
    for name, entry in json.loads(raw[8:start].tobytes()).items():
        shape = entry["shape"]
        values = random.standard_normal(shape, np.float32)
        if len(shape) > 1:
            values /= prod(shape[1:]) ** 0.5
        else:
            values = values / 10 + (0 if name.endswith("bias") else 1)
        begin, end = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        else:
            bits = values.astype(np.float16).view(np.uint16)
        raw[begin:end] = bits.view(np.uint8).ravel()
    raw.flush()
