"""Small values on their way to a device and back, not waiting for what runs there."""

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


class Download:
    """A tensor's values on their way to the host: they take their turn, too."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values, self._arrival = values, None
        if values.device.type == "cuda":
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrival = torch.cuda.current_stream(values.device).record_event()

    def wait(self) -> torch.Tensor:
        """The values on the host."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._values
