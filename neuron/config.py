"""neuron.toml."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from neuron.protocol import paths
from neuron.protocol.address import Address, Listen
from neuron.protocol.bearer import Token
from neuron.protocol.config_file import ConfigModel, Loaded, load
from neuron.protocol.load_config import LoraSection
from neuron.protocol.routes import DEFAULT_PORT
from neuron.protocol.types import LoadRequest

NAME = "neuron.toml"
ENV_PREFIX = "NEURON_"
ENGINE_PREFIX = "NEURON_EXLLAMAV2_"
"""Of variables that this engine reads itself."""


class Limits(ConfigModel):
    """How much a neuron takes on, and how long it waits for what."""

    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait for a slot of one model."""
    queue_wait_s: float = Field(default=60, gt=0)
    """How long one may wait there."""
    max_per_caller: int | None = Field(default=None, ge=1)
    """Requests of one caller that a model runs at once. Default: as many as there are
    slots."""
    drain_s: float = Field(default=30, ge=0)
    """What running requests get when their model or the daemon goes away."""
    stall_s: float = Field(default=120, gt=0)
    """A worker that has work and shows no life for this long is killed."""
    load_timeout_s: float = Field(default=1800, gt=0)
    """How long a load may take."""
    max_body_mb: int = Field(default=64, ge=1)
    """The largest request body, in MiB."""


class DefaultModel(LoadRequest):
    """A model to load at start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loras: tuple[LoraSection, ...] | None = None


class NeuronConfig(ConfigModel):
    """Everything neuron.toml may say."""

    listen: Listen = f"127.0.0.1:{DEFAULT_PORT}"
    """Where the API is served."""
    token: Token | None = Field(default=None, repr=False)
    """Asked of everybody, as a bearer token, on every path but `/health` and
    `/version`."""
    auth: Literal["none"] | None = None
    """`"none"` is the consent that listening beyond loopback without a token asks
    for."""
    models_dirs: list[Path] = Field(
        default_factory=lambda: [paths.data_dir() / "models"]
    )
    """Folders of model folders, `name` or `org/name`; the bundled model is always
    there."""
    default_models: list[DefaultModel] = Field(default_factory=list)
    """Loaded at start, one after the other."""
    limits: Limits = Limits()

    @field_validator("models_dirs")
    @classmethod
    def _expand_home(cls, value: list[Path]) -> list[Path]:
        return [path.expanduser() for path in value]

    @model_validator(mode="after")
    def _strangers_need_consent(self) -> Self:
        guarded = self.token is not None or self.auth is not None
        if not guarded and not self.address.is_loopback:
            raise ValueError(
                f'listen = "{self.listen}" reaches beyond this host: set a token, which'
                ' gateways then have to show, or auth = "none" to let anybody in'
            )
        return self

    @property
    def address(self) -> Address:
        return Address.parse(self.listen)


def load_config(
    explicit: Path | None = None,
    *,
    listen: str | None = None,
    models_dirs: list[Path] | None = None,
) -> Loaded[NeuronConfig]:
    """neuron.toml, overridden by the environment and then by what is passed here.

    Raises:
        ConfigError: something is wrong with it; file, line and key are named.
        ValueError: an argument is wrong.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ENGINE_PREFIX)
    }
    loaded = load(
        NeuronConfig, NAME, explicit=explicit, env_prefix=ENV_PREFIX, environ=environ
    )
    changes: dict[str, object] = {}
    if listen is not None:
        changes["listen"] = listen
    if models_dirs:
        changes["models_dirs"] = models_dirs
    if not changes:
        return loaded
    merged = loaded.config.model_dump(exclude_unset=True) | changes
    return Loaded(NeuronConfig.model_validate(merged), loaded.path)
