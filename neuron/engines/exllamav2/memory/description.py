"""A model folder as this engine sees it: config.json and headers, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from neuron.engines.exllamav2.memory.architectures import (
    ARCHITECTURES,
    NEAR_MISSES,
    Architecture,
)
from neuron.engines.exllamav2.memory.modules import ModuleCost, module_costs
from neuron.engines.exllamav2.memory.scratch import Dimensions
from neuron.engines.exllamav2.memory.windows import layer_windows
from neuron.exl2 import FormatError, TensorDirectory, open_model
from neuron.models.errors import ModelError
from neuron.models.info import ModelInfo
from neuron.models.settings import Settings


class UnsupportedModelError(Exception):
    """The engine cannot run the model; the text names what is in the way."""


@dataclass(frozen=True)
class Description:
    """One model folder."""

    info: ModelInfo
    architecture: Architecture
    config: Settings
    tensors: TensorDirectory

    @classmethod
    def of(cls, info: ModelInfo) -> "Description":
        """Read what is needed to judge a model and to plan for it.

        Raises:
            UnsupportedModelError: the architecture is not one of the engine's, or a
                file is missing or malformed.
        """
        architecture = ARCHITECTURES.get(info.architecture)
        if architecture is None:
            hint = NEAR_MISSES.get(info.architecture)
            raise UnsupportedModelError(
                hint or f"exllamav2 has no architecture {info.architecture}"
            )
        try:
            config = Settings.read(info.path / "config.json")
            return cls(info, architecture, config, open_model(info.path))
        except (ModelError, FormatError, OSError) as error:
            raise UnsupportedModelError(str(error)) from None

    @property
    def quantization(self) -> Mapping[str, object]:
        """config.json's `quantization_config`; empty where there is none."""
        return self.tensors.quantization_config

    @cached_property
    def sizes(self) -> Dimensions:
        """The decoder's sizes.

        Raises:
            ModelError: a key has a value that is none.
        """
        info, config = self.info, self.config
        experts = 0
        intermediate = info.intermediate_size
        if self.architecture.experts:
            experts = config.integer(
                "num_local_experts", config.integer("num_experts", 1)
            )
            intermediate = config.integer("moe_intermediate_size", intermediate)
        return Dimensions(
            layers=info.layers,
            hidden=info.hidden_size,
            intermediate=intermediate,
            heads=info.heads,
            kv_heads=info.kv_heads,
            head_dim=info.head_dim,
            vocab=info.vocab_size,
            experts=experts,
            rope_tables=self.architecture.rope_tables,
            rotary_dim=self._rotary_dim(),
        )

    def _rotary_dim(self) -> int:
        if not self.architecture.rope:
            return 0
        factor = self.config.get("partial_rotary_factor")
        share = factor if isinstance(factor, int | float) else 1.0
        return int(self.info.head_dim * share)

    @cached_property
    def modules(self) -> tuple[ModuleCost, ...]:
        """What each module takes on a device, in the order in which they run."""
        return module_costs(self.tensors.specs, self.architecture)

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """Of each layer: how many keys a token sees, its own among them, where the
        library passes that over; None for all of them."""
        return layer_windows(self.architecture, self.config, self.info.layers)
