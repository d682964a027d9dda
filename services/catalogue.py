"""models.toml: what it may say of the fleet's models, and how it is read."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from neuron.protocol import config_file, paths
from neuron.protocol.config_file import ConfigError, ConfigModel
from neuron.protocol.load_config import LoraSection
from neuron.protocol.types import LoadOptions

MODELS_TOML = "models.toml"
_WILD = frozenset("*?[")

Seconds = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class CostSection(ConfigModel):
    """`cost` of a model, in any currency: what counts against a key's `budget_cost`."""

    input: Price
    """Price of a million prompt tokens, in any currency."""
    output: Price
    """Price of a million tokens of answers."""
    cached_input: Price | None = None
    """Price of a million prompt tokens that the prefix cache held. Default: `input`."""

    def of(self, prompt: int, cached: int, completion: int) -> float:
        """What a request costs; `cached` tokens are part of the `prompt`."""
        rest = self.input if self.cached_input is None else self.cached_input
        spent = (prompt - cached) * self.input + cached * rest
        return (spent + completion * self.output) / 1e6


class ModelEntry(LoadOptions):
    """One `[[models]]`: how this model is to be run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    """As `/v1/models` names it."""
    pinned: bool = False
    """Nothing but an operator unloads it."""
    ttl: Seconds | None = None
    """Seconds without a request after which it is unloaded, unless it is pinned.
    Default: it stays."""
    place_on: tuple[str, ...] = ()
    """Nodes that may load it; empty: any that has it on disk."""
    aliases: tuple[Name, ...] = ()
    """Other names that clients may use, also with `*` and `?`: `claude-*`."""
    engine: str | None = None
    """Default: the neuron's first engine that can serve it."""
    max_seq_len: Annotated[int, Field(ge=1)] | None = None
    """Longest context, in tokens. Default: what the model was trained for."""
    slots: Annotated[int, Field(ge=1)] | None = None
    """Requests that decode at once. Default: the engine's."""
    cache_mode: str | None = None
    """How keys and values are kept. Default: the engine's."""
    cache_tokens: Annotated[int, Field(ge=1)] | None = None
    """Size of the KV cache. Default: `slots` times `max_seq_len`."""
    loras: tuple[LoraSection, ...] | None = None
    cost: CostSection | None = None


class CatalogueFile(ConfigModel):
    """models.toml."""

    default_model: Name | None = None
    """Id or alias of what answers for names that nothing else matches. Default: they
    are refused."""
    models: tuple[ModelEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """models.toml, read; `found` is False where there is no such file yet."""

    entries: dict[str, ModelEntry]
    path: Path
    """Where it was found, or where it would be created."""
    found: bool
    default_model: str | None = None

    def entry(self, model: str) -> ModelEntry:
        """The model's entry, or the defaults."""
        return self.entries.get(model) or ModelEntry(id=model)

    def meant_by(self, name: str) -> str:
        """The id that a name stands for which no node has a model of: itself where
        models.toml has it, an alias before a pattern, the first of several, the default
        model before nothing."""
        if name in self.entries:
            return name
        aliases = self.aliases
        if name in aliases:
            return aliases[name]
        for entry in self.entries.values():
            if any(fnmatchcase(name, pattern) for pattern in entry.aliases):
                return entry.id
        default = self.default_model or name
        return aliases.get(default, default)

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → model, of those that are no patterns."""
        return {
            alias: entry.id
            for entry in self.entries.values()
            for alias in entry.aliases
            if not _WILD.intersection(alias)
        }


def load_catalogue(explicit_config: Path | None = None) -> Catalogue:
    """Read models.toml; an absent one is an empty catalogue.

    Raises:
        ConfigError: it cannot be used.
    """
    beside = explicit_config.parent / MODELS_TOML if explicit_config else None
    if beside is not None and not beside.is_file():
        return Catalogue({}, beside, found=False)
    loaded = config_file.load(CatalogueFile, MODELS_TOML, explicit=beside)
    config_file.refuse_repeated(
        loaded.path, "models", "id", [entry.id for entry in loaded.config.models]
    )
    path = loaded.path or paths.config_dir() / MODELS_TOML
    entries = {entry.id: entry for entry in loaded.config.models}
    _refuse_taken_aliases(loaded.path, loaded.config)
    return Catalogue(
        entries,
        path,
        found=loaded.path is not None,
        default_model=loaded.config.default_model,
    )


def _refuse_taken_aliases(path: Path | None, file: CatalogueFile) -> None:
    """A name stands for one model."""
    taken = {entry.id: "the id of another model" for entry in file.models}
    for index, entry in enumerate(file.models):
        for alias in entry.aliases:
            if alias in taken:
                where = config_file.where(path, ("models", index, "aliases"))
                raise ConfigError(
                    f"{where}: models.{index}.aliases: '{alias}' is {taken[alias]}"
                )
            taken[alias] = f"an alias of '{entry.id}' already"
