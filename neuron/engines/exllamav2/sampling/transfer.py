"""Small values on their way to a device, without waiting for what runs there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def upload(
    values: Sequence[Any] | NDArray[Any], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor of these values on the device.

    A copy from pageable memory would wait for the whole stream. From pinned memory it
    takes its turn; torch keeps that memory until it is done.
    """
    host = torch.tensor(np.asarray(values), dtype=dtype)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
