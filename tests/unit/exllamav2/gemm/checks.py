"""What is checked of the kernels; called in a process that interprets them."""

import torch

from neuron.engines.exllamav2.gemm.matrix import Exl2Matrix
from tests.unit.exllamav2.gemm.matrices import Plan, device_tensors, random_layer

_MULTIPROCESSORS = 8


def reads_every_weight(plan: Plan, columns: int) -> None:
    """A product with the identity is the matrix, bit for bit."""
    layer = random_layer(plan, columns)
    identity = torch.eye(layer.in_features, dtype=torch.float16)
    matrix = Exl2Matrix.of(device_tensors(layer))
    product = matrix.multiply(identity, _MULTIPROCESSORS)
    assert torch.equal(product, torch.from_numpy(layer.dequantize()))


def multiplies(plan: Plan, columns: int, rows: int, bias: bool) -> None:
    """Within the rounding of a float16 result."""
    layer = random_layer(plan, columns, bias=bias)
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, layer.in_features), generator=generator).half()
    got = Exl2Matrix.of(device_tensors(layer)).multiply(x, _MULTIPROCESSORS).double()
    wanted = x.double() @ torch.from_numpy(layer.dequantize()).double()
    if layer.bias is not None:
        wanted += torch.from_numpy(layer.bias).double()
    assert (got - wanted).norm() < 5e-4 * wanted.norm()


def repeats_itself(plan: Plan, columns: int) -> None:
    """Equal inputs give equal bits."""
    layer = random_layer(plan, columns)
    x = torch.randn((40, layer.in_features), generator=torch.Generator()).half()
    matrix = Exl2Matrix.of(device_tensors(layer))
    first, again = (matrix.multiply(x, _MULTIPROCESSORS) for _ in range(2))
    assert torch.equal(first, again)
