"""Whether a loaded model looks at images: one answer for daemon, worker and engine."""

from neuron.models.info import ModelInfo
from neuron.models.vision import VisionInfo
from neuron.protocol.types import LoadOptions


def seen(info: ModelInfo, options: LoadOptions) -> VisionInfo | None:
    """How images are taken by the model as it is loaded; None where it takes none.

    Neither a draft model nor layers that are split over GPUs know of embeddings that
    are no tokens'; such a load serves text, and spares the memory of the eyes.
    """
    blind = options.draft is not None or bool(options.tensor_parallel)
    return None if blind else info.vision
