"""How far a context reaches, and how exllamav2 is told of it.

The library reads the old spelling of config.json only: with `rope_parameters` it would
take 10000 for the base without a word, and a section that says its type twice fails an
assertion. It therefore gets the file's contents in the spelling that it reads.
Sources: exllamav2 0.3.2, config.py and rope.py; YaRN (arXiv 2309.00071).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.reference.rope import Rope, parse_rope
from neuron.protocol.types import LoadOptions

_KINDS: Final = ("default", "linear", "llama3", "yarn", "su", "longrope", "mrope")
_BESIDE: Final = ("rope_theta", "partial_rotary_factor")
"""What the new spelling keeps in the section and the old one beside it."""
_EVERY_KEY: Final = "full_attention"
"""What the new spelling calls a layer that has no window."""


@dataclass(frozen=True, slots=True)
class Extension:
    """What a load asks for beyond the model's own context."""

    scale: float = 1.0
    """Positions are divided by it."""
    alpha: float = 1.0
    """NTK: the base grows so that the context becomes about so many times longer."""
    yarn: float = 1.0

    @classmethod
    def of(cls, options: LoadOptions) -> "Extension":
        return cls(
            options.rope_scale or 1.0,
            options.rope_alpha or 1.0,
            options.yarn_factor or 1.0,
        )

    @property
    def factor(self) -> float:
        """How many times longer the context may be than the model's own."""
        return self.scale * self.alpha * self.yarn


def check_extension(model: Description, options: LoadOptions) -> None:
    """Refuse an extension that the model or the library cannot have.

    Raises:
        EngineError: `param` names the field.
    """
    asked = {
        name: getattr(options, name)
        for name in ("rope_scale", "rope_alpha", "yarn_factor")
        if getattr(options, name) is not None
    }
    for name in asked:
        if not model.architecture.rope:
            raise _refused(name, f"{model.info.architecture} has learned positions")
    own = rope_kind(model.config.get("rope_scaling"), model.config)
    if len(asked) > 1:
        raise _refused(
            max(asked), f"one extension at a time, not {' and '.join(asked)}"
        )
    if "yarn_factor" in asked:
        if own != "default":
            raise _refused(
                "yarn_factor", f"config.json has {own} scaling of its own for contexts"
            )
        if model.architecture.rope_tables > 1:
            raise _refused(
                "yarn_factor", "the model's windows have a base of their own"
            )
    if "rope_scale" in asked and own == "mrope":
        raise _refused(
            "rope_scale",
            "positions of an image's rows and columns are not divided by it; "
            "rope_alpha extends this model",
        )
    for name in asked:
        if own in ("linear", "yarn"):
            raise _refused(name, f"config.json has {own} scaling of its own")


def longest_context(model: Description, options: LoadOptions) -> int:
    """Tokens that a load may have at most, extension included."""
    own = model.info.context
    if options.tensor_parallel:
        # Split layers see all keys, and a model only so many while it was trained.
        own = min(own, *filter(None, model.windows), own)
    return int(own * Extension.of(options).factor)


def rope_kind(section: object, config: Any) -> str:
    """The type of scaling that config.json asks for; `default` for none."""
    if section is None:
        section = config.get("rope_parameters")
    if not isinstance(section, Mapping):
        return "default"
    kind = section.get("rope_type", section.get("type", "default"))
    if kind == "default" and section.get("mrope_section"):
        return "mrope"
    return str(kind)


def unknown_rope(kind: str) -> str | None:
    """Why the library does not know that scaling; None where it does."""
    if kind in _KINDS:
        return None
    return f"config.json: rope type {kind!r} is not one of {', '.join(_KINDS)}"


def library_config(raw: Mapping[str, Any], options: LoadOptions) -> dict[str, Any]:
    """config.json's contents as the library reads them, with the load's YaRN.

    Raises:
        EngineError: the file asks for a scaling that the library does not know.
    """
    found = dict(raw)
    found["architectures"] = list(raw.get("architectures", []))[:1]
    text = raw.get("text_config")
    for holder in [found, *([dict(text)] if isinstance(text, Mapping) else [])]:
        _respell(holder)
        if holder is not found:
            found["text_config"] = holder
    if options.yarn_factor is not None:
        found["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": options.yarn_factor,
            "original_max_position_embeddings": raw.get("max_position_embeddings"),
        }
    if "norm_epsilon" in found:
        # Of Starcoder2, which saved it twice at first.
        found.setdefault("layer_norm_epsilon", found["norm_epsilon"])
    return found


def _respell(holder: dict[str, Any]) -> None:
    """Bring one object of config.json into the old spelling, in place."""
    kinds = holder.get("layer_types")
    if isinstance(kinds, list) and _EVERY_KEY in kinds:
        holder.setdefault("sliding_window_pattern", 1 + kinds.index(_EVERY_KEY))
    section = holder.get("rope_scaling")
    parameters = holder.pop("rope_parameters", None)
    if isinstance(parameters, Mapping) and not section:
        # Where windowed layers have their own, the library knows theirs.
        parameters = parameters.get(_EVERY_KEY, parameters)
        for key in _BESIDE:
            if (value := parameters.get(key)) is not None:
                holder.setdefault(key, value)
        section = {k: v for k, v in parameters.items() if k not in _BESIDE}
    if not isinstance(section, Mapping):
        return
    kind = rope_kind(section, holder)
    if (reason := unknown_rope(kind)) is not None:
        raise EngineError(reason, code="unsupported", param="model")
    rest = {k: v for k, v in section.items() if k not in ("type", "rope_type")}
    if kind == "yarn":
        rest.setdefault(
            "original_max_position_embeddings", holder.get("max_position_embeddings")
        )
    holder["rope_scaling"] = {"rope_type": kind, **rest} if kind != "default" else None


def yarn_of(config: Mapping[str, Any]) -> Rope:
    """The YaRN of a config that `library_config` made.

    The library's own YaRN takes the loaded `max_seq_len` for the context before it was
    stretched, and passes over beta_fast, beta_slow and the attention factor, so that
    the same weights would turn differently with every `max_seq_len`.

    Raises:
        EngineError: it cannot be computed; the key is named.
    """
    context = config.get("max_position_embeddings")
    try:
        return parse_rope(config, context if isinstance(context, int) else 0)
    except ValueError as error:
        raise EngineError(
            f"config.json: {error}", code="load_failed", param="model"
        ) from None


def replace_tables(context: Any, rope: Rope, positions: int) -> None:
    """Put a rope's sines and cosines in place of those of a device's context.

    Args:
        context: an `ExLlamaV2DeviceContext` that has made its own, shape
            [1, 1, positions, head_dim] float16, both halves alike.
        rope: how positions become angles.
        positions: `max_seq_len`.
    """
    import torch

    turns = torch.from_numpy(rope.table(positions, context.sin[0].shape[-1]))
    for table, part in ((context.sin[0], turns.imag), (context.cos[0], turns.real)):
        table.copy_(torch.cat((part, part), dim=-1)[None, None])


def _refused(param: str, reason: str) -> EngineError:
    return EngineError(f"{param}: {reason}", code="unsupported", param=param)
