"""The token embedding on the GPU, where exllamav2 looks it up on the CPU.

The library keeps the embedding in system memory and copies one row per token to the
device, with a full synchronization, in every step. A table of 128,256 tokens by 4096
float16 is 1 GiB of VRAM and no copy; a decode step captured as a CUDA graph needs it.
"""

from typing import Any


class DeviceEmbedding:
    """Stands in for `torch.nn.Embedding`; takes ids on any device."""

    def __init__(self, table: Any) -> None:
        """`table` is the weight [vocab, hidden] on its device."""
        self.weight = table

    def __call__(self, ids: Any) -> Any:
        """Rows [..., hidden] of `ids` [...] int64, on the table's device."""
        import torch

        return torch.nn.functional.embedding(ids.to(self.weight.device), self.weight)


def move_embedding(model: Any, device: Any) -> int:
    """Put the embedding of a loaded `ExLlamaV2` on `device`; returns its bytes there.

    The module's own code calls whatever its `embedding` is, so that scaling, float32
    residuals and images among the tokens stay the library's business.
    """
    module = model.modules[0]
    table = module.embedding.weight.data.to(device)
    module.embedding = DeviceEmbedding(table)
    return int(table.nbytes)
