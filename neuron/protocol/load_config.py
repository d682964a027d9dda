"""How models are loaded, as configuration files say it."""

from pydantic import ConfigDict

from neuron.protocol.types import LoraAdapter


class LoraSection(LoraAdapter):
    """One adapter; unknown keys are errors, as everywhere in these files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
