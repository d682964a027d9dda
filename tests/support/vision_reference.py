"""What the vision towers of each family compute, written down plainly in float32.

From the papers and from transformers' models (pixtral, mistral3, qwen2_vl, qwen2_5_vl,
siglip, gemma3): the judge of the library's towers, on the CPU and on a GPU. Weights are
those of `tests.unit.exllamav2.vision_models`: one layer, two heads.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from neuron.exl2 import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = 2
_EPS = 1e-6


class TowerReference:
    """One model's tower."""

    def __init__(self, folder: Path, name: str, config: Any, preprocessor: Any) -> None:
        """Of the family `name`, with its config.json and preprocessor_config.json."""
        self._tensors = open_model(folder)
        self._vision = config["vision_config"]
        self._merge = config.get("spatial_merge_size", 1)
        self._window = self._vision.get("window_size")
        self._images = preprocessor
        self._patch = self._vision["patch_size"]
        compute: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "pixtral": self._pixtral,
            "mistral3": self._pixtral,
            "qwen2-vl": self._qwen,
            "qwen2.5-vl": self._qwen,
            "gemma3": self._gemma,
        }
        self._name, self._compute = name, compute[name]

    def embeddings(self, pixels: Any) -> torch.Tensor:
        """[parts, hidden size] of an image [height, width, 3] of the right size."""
        scaled = torch.from_numpy(pixels.astype(np.float32)) / 255
        mean, std = (
            torch.tensor(self._images[key]) for key in ("image_mean", "image_std")
        )
        return self._compute(((scaled - mean) / std).permute(2, 0, 1))

    def _tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self._tensors.read(key).astype(np.float32))

    def _linear(self, key: str, x: torch.Tensor) -> torch.Tensor:
        bias = f"{key}.bias"
        known = self._tensor(bias) if bias in self._tensors.specs else None
        return F.linear(x, self._tensor(f"{key}.weight"), known)

    def _rms(self, key: str, x: torch.Tensor, above: float = 0) -> torch.Tensor:
        weight = self._tensor(f"{key}.weight") + above
        return F.rms_norm(x, weight.shape, weight, _EPS)

    def _layer_norm(self, key: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._tensor(f"{key}.weight"), self._tensor(f"{key}.bias")
        return F.layer_norm(x, weight.shape, weight, bias, _EPS)

    def _patches(self, image: torch.Tensor) -> torch.Tensor:
        """[rows, columns, 3, patch, patch]"""
        size = self._patch
        return image.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4)

    def _pixtral(self, image: torch.Tensor) -> torch.Tensor:
        tower, layer = "vision_tower", "vision_tower.transformer.layers.0"
        patches = self._patches(image)
        rows, columns = patches.shape[:2]
        conv = self._tensor(f"{tower}.patch_conv.weight").flatten(1)
        x = self._rms(f"{tower}.ln_pre", patches.flatten(2).flatten(0, 1) @ conv.T)
        at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        dim = x.shape[1] // HEADS
        steps = self._vision["rope_theta"] ** -(torch.arange(0, dim, 2) / dim)
        # Rows turn by every other frequency, columns by those between.
        turns = torch.cat((at[:, :1] * steps[::2], at[:, 1:] * steps[1::2]), 1)
        normed = self._rms(f"{layer}.attention_norm", x)
        q, k, v = (
            self._linear(f"{layer}.attention.{each}_proj", normed) for each in "qkv"
        )
        attended = _attend(_turned(q, turns), _turned(k, turns), v)
        x = x + self._linear(f"{layer}.attention.o_proj", attended)
        x = x + self._gated(f"{layer}.feed_forward", self._rms(f"{layer}.ffn_norm", x))
        projector = "multi_modal_projector"
        if self._name == "mistral3":
            x = self._rms(f"{projector}.norm", x)
            grid = x.T.reshape(1, -1, rows, columns)
            blocks = F.unfold(grid, self._merge, stride=self._merge)[0].T
            x = self._linear(f"{projector}.patch_merger.merging_layer", blocks)
        inner = F.gelu(self._linear(f"{projector}.linear_1", x))
        return self._linear(f"{projector}.linear_2", inner)

    def _gated(self, key: str, x: torch.Tensor) -> torch.Tensor:
        gate = F.silu(self._linear(f"{key}.gate_proj", x))
        return self._linear(
            f"{key}.down_proj", gate * self._linear(f"{key}.up_proj", x)
        )

    def _qwen(self, image: torch.Tensor) -> torch.Tensor:
        newer, layer = self._name == "qwen2.5-vl", "visual.blocks.0"
        norm = self._rms if newer else self._layer_norm
        patches = self._patches(image)
        rows, columns = patches.shape[:2]
        # Two by two, block after block; a picture is two frames that are alike.
        at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        blocks = (
            at.view(rows // 2, 2, columns // 2, 2, 2).transpose(1, 2).reshape(-1, 2)
        )
        kernel = self._tensor("visual.patch_embed.proj.weight").sum(2).flatten(1)
        x = patches[blocks[:, 0], blocks[:, 1]].flatten(1) @ kernel.T
        half = x.shape[1] // HEADS // 2
        steps = 10000 ** -(torch.arange(0, half, 2) / half)
        turns = torch.cat((blocks[:, :1] * steps, blocks[:, 1:] * steps), 1)
        qkv = self._linear(f"{layer}.attn.qkv", norm(f"{layer}.norm1", x))
        q, k, v = qkv.chunk(3, 1)
        apart = None
        if newer:
            windows = blocks // (self._window // self._patch)
            apart = (windows[:, None] != windows[None]).any(-1)
        attended = _attend(_turned(q, turns), _turned(k, turns), v, apart)
        x = x + self._linear(f"{layer}.attn.proj", attended)
        normed = norm(f"{layer}.norm2", x)
        if newer:
            x = x + self._gated(f"{layer}.mlp", normed)
        else:
            inner = self._linear(f"{layer}.mlp.fc1", normed)
            inner = inner * torch.sigmoid(1.702 * inner)
            x = x + self._linear(f"{layer}.mlp.fc2", inner)
        merged = norm("visual.merger.ln_q", x).view(len(x) // 4, -1)
        inner = F.gelu(self._linear("visual.merger.mlp.0", merged))
        return self._linear("visual.merger.mlp.2", inner)

    def _gemma(self, image: torch.Tensor) -> torch.Tensor:
        tower = "vision_tower.vision_model"
        layer, embeddings = f"{tower}.encoder.layers.0", f"{tower}.embeddings"
        patches = self._patches(image)
        side = len(patches)
        conv = self._tensor(f"{embeddings}.patch_embedding.weight").flatten(1)
        x = patches.flatten(2).flatten(0, 1) @ conv.T
        x = x + self._tensor(f"{embeddings}.patch_embedding.bias")
        x = x + self._tensor(f"{embeddings}.position_embedding.weight")
        normed = self._layer_norm(f"{layer}.layer_norm1", x)
        q, k, v = (
            self._linear(f"{layer}.self_attn.{each}_proj", normed) for each in "qkv"
        )
        x = x + self._linear(f"{layer}.self_attn.out_proj", _attend(q, k, v))
        inner = self._linear(
            f"{layer}.mlp.fc1", self._layer_norm(f"{layer}.layer_norm2", x)
        )
        x = x + self._linear(f"{layer}.mlp.fc2", F.gelu(inner, approximate="tanh"))
        x = self._layer_norm(f"{tower}.post_layernorm", x)
        pooled = F.avg_pool2d(x.T.reshape(1, -1, side, side), side // 4)
        parts = pooled.flatten(2)[0].T
        normed = self._rms("multi_modal_projector.mm_soft_emb_norm", parts, above=1)
        return normed @ self._tensor("multi_modal_projector.mm_input_projection_weight")


def _heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (HEADS, -1)).transpose(0, 1)


def _turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Number i of a head and the one half a head on as a pair, turned by angle i."""
    first, second = x.unflatten(1, (HEADS, -1)).chunk(2, -1)
    c, s = angles.cos()[:, None], angles.sin()[:, None]
    pairs = (first * c - second * s, second * c + first * s)
    return torch.cat(pairs, -1).flatten(1)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, apart: torch.Tensor | None = None
) -> torch.Tensor:
    """Everyone attends to everyone but those that are apart: [rows, width]."""
    q, k, v = map(_heads, (q, k, v))
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    if apart is not None:
        scores = scores.masked_fill(apart, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
