"""A number per position, whenever it is asked for."""

import numpy as np

from neuron.engines.exllamav2.sampling.uniforms import Uniforms


def test_the_stream_of_the_reference_engine() -> None:
    stream = np.random.Generator(np.random.Philox(key=7))
    uniforms = Uniforms(7)
    assert [uniforms.at(i) for i in range(200)] == [stream.random() for _ in range(200)]


def test_positions_in_any_order_and_again() -> None:
    forwards, backwards = Uniforms(3), Uniforms(3)
    numbers = [forwards.at(i) for i in range(300)]
    assert [backwards.at(i) for i in reversed(range(300))] == numbers[::-1]
    assert [forwards.at(i) for i in range(300)] == numbers


def test_seeds() -> None:
    assert Uniforms(-1).at(0) == Uniforms(2**64 - 1).at(0)
    assert Uniforms(None).at(0) != Uniforms(None).at(0)
