"""Settings from the environment."""

import pytest

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.levers import Levers


def test_defaults_where_nothing_is_said() -> None:
    assert Levers.read({"NEURON_SLOTS": "3"}) == Levers()


@pytest.mark.parametrize(
    ("text", "value"), [("0", False), (" Off ", False), ("1", True)]
)
def test_a_switch(text: str, value: bool) -> None:
    levers = Levers.read({"NEURON_EXLLAMAV2_DEVICE_SAMPLING": text})
    assert levers == Levers(device_sampling=value)


def test_a_number() -> None:
    levers = Levers.read({"NEURON_EXLLAMAV2_PREFILL_CHUNK": "512"})
    assert levers.prefill_chunk == 512
    assert Levers.read({"NEURON_EXLLAMAV2_SPECULATE_UP_TO": "0"}).speculate_up_to == 0


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("NEURON_EXLLAMAV2_WARMUP", "maybe", "'maybe' is none of 1, true, on"),
        ("NEURON_EXLLAMAV2_PREFILL_CHUNK", "300", "no multiple of 256"),
        ("NEURON_EXLLAMAV2_PREFILL_CHUNK", "0", "no multiple of 256"),
        ("NEURON_EXLLAMAV2_PREFILL_CHUNK", "-256", "no multiple of 256"),
        ("NEURON_EXLLAMAV2_SPECULATE_UP_TO", "-1", "no whole number"),
        ("NEURON_EXLLAMAV2_SPECULATE_UP_TO", "on", "no whole number"),
    ],
)
def test_a_value_that_is_none_is_refused(name: str, text: str, reason: str) -> None:
    with pytest.raises(EngineError, match=reason) as refused:
        Levers.read({name: text})
    assert refused.value.param == name
