"""Vision models' JSON files in the spelling that the library reads.

It asserts names that later releases of transformers changed: of image processors (for
which `…Fast` is another way of computing the same), and of Qwen's limits.
Source: exllamav2 0.3.2, config.py.
"""

from collections.abc import Mapping
from typing import Any, Final

from neuron.models.image_sizing import PixelBudget
from neuron.models.vision import VisionInfo

_MISTRAL: Final = "Mistral3ForConditionalGeneration"
_PROCESSORS: Final = {
    "LlavaForConditionalGeneration": "PixtralImageProcessor",
    _MISTRAL: "PixtralImageProcessor",
    "Qwen2VLForConditionalGeneration": "Qwen2VLImageProcessor",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2VLImageProcessor",
    "Gemma3ForConditionalGeneration": "Gemma3ImageProcessor",
}
"""Architecture → the name by which the library knows its image processor."""


def library_vision(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's contents with what the library wants to read of the tower."""
    found = dict(raw)
    if _MISTRAL in raw.get("architectures", ()):
        # What files leave out is false for transformers, and true for the library.
        found.setdefault("multimodal_projector_bias", False)
    vision = raw.get("vision_config")
    if isinstance(vision, Mapping):
        found["vision_config"] = {**_first_names(vision), **vision}
    return found


def _first_names(vision: Mapping[str, Any]) -> dict[str, Any]:
    """What the library asks a tower's settings for by other names than they have."""
    names = {}
    if "patch_size" in vision:  # of Qwen's
        names["spatial_patch_size"] = vision["patch_size"]
    rope = vision.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_theta" in rope:
        names["rope_theta"] = rope["rope_theta"]
    return names


def library_preprocessor(
    raw: Mapping[str, Any], architecture: str, vision: VisionInfo | None
) -> dict[str, Any]:
    """preprocessor_config.json's contents as the library reads them.

    Args:
        raw: the file's.
        architecture: config.json's.
        vision: how images are sized, which the library is to do alike.
    """
    found = dict(raw)
    if architecture in _PROCESSORS:
        found["image_processor_type"] = _PROCESSORS[architecture]
    if vision is not None and isinstance(vision.sizing, PixelBudget):
        found["min_pixels"] = vision.sizing.least
        found["max_pixels"] = vision.sizing.most
    return found
