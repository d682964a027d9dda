"""The library's vision tower: made, placed, and asked for embeddings.

Source: exllamav2 0.3.2: vlm/vision_tower.py, attn.py, device.py.
"""

from copy import copy
from typing import Any, Final

from neuron.engines.base import Image

_RMS_MERGER: Final = "qwen2.5"
"""The library's name of a tower whose merger does not subtract the mean."""


def make_tower(library: Any, config: Any, device: int) -> Any:
    """An `ExLlamaV2VisionTower` whose modules know their device, nothing loaded yet.

    Args:
        library: the module `exllamav2`.
        config: the language model's `ExLlamaV2Config`; it is not changed.
        device: the library's index.
    """
    tower = library.ExLlamaV2VisionTower(copy(config))
    for module in tower.modules:
        module.set_device_idx(device)
        if isinstance(module, library.attn.ExLlamaV2Attention):
            # The library gives it the language model's scale where that has its own.
            module.scaling = module.head_dim**-0.5
    if tower.config.vision_model_type == _RMS_MERGER:
        _merge_by_rms(library, tower)
    # Its constructor leaves these out. It turns by tables of its own and needs none of
    # the language model's positions: those of a context without rope are empty.
    tower.modules_dict, tower.cache_map, tower.loaded = {}, {}, False
    context = library.device.ExLlamaV2DeviceContext(
        tower, device, 0, archparams=config.arch.mmp
    )
    context.prepare(False)
    tower.device_context = [None] * device + [context]
    return tower


def _merge_by_rms(library: Any, tower: Any) -> None:
    """Give the merger the norm that it was trained with; the library has another."""
    merger = tower.modules[-1]
    theirs = merger.pre_layernorm
    ours = library.rmsnorm.ExLlamaV2RMSNorm(
        tower, theirs.key, archparams=tower.config.arch.mmp
    )
    ours.set_device_idx(theirs.device_idx)
    merger.pre_layernorm = ours
    merger.submodules[merger.submodules.index(theirs)] = ours


class Tower:
    """Computes embeddings with a loaded tower."""

    def __init__(self, library: Any, tower: Any) -> None:
        self._library = library
        self.tower = tower

    def __call__(self, image: Image) -> Any:
        """Embeddings of an image's parts: float16 [parts, hidden size], on the CPU.

        The library's own `get_image_embeddings` adds tokens around and between them,
        which the prompt has at their places already, as the models were trained.
        """
        from PIL import Image as pillow
        from torch import inference_mode

        tower = self.tower
        self._library.device.set_device_streams()
        with inference_mode():
            pixels, size, frames, _ = tower.preprocess_func(
                tower.config, pillow.fromarray(image.pixels)
            )
            patch = tower.config.vision_patch_size
            patches = size[1] // patch["height"], size[0] // patch["width"]
            states = tower.process(pixels, patches, thw_grid=frames)
            return states[0].cpu()
