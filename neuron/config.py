"""neuron.toml."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from neuron.protocol import paths
from neuron.protocol.config_file import ConfigModel, Loaded, load
from neuron.protocol.routes import DEFAULT_PORT

NAME = "neuron.toml"
ENV_PREFIX = "NEURON_"


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a listener; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`host:port`, `[v6]:port`, `:port` or `host`.

        Raises:
            ValueError: it is none of these.
        """
        if "]" not in text and text.count(":") > 1:
            raise ValueError(f"'{text}': write an IPv6 address as [::1]:13131")
        host, colon, port = text.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = text, str(DEFAULT_PORT)
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"'{text}': the port must be a number from 0 to 65535")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Limits(ConfigModel):
    """How much a neuron takes on, and how long it waits for what."""

    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait for a slot of one model."""
    queue_wait_s: float = Field(default=60, gt=0)
    """How long one may wait there."""
    drain_s: float = Field(default=30, ge=0)
    """What running requests get when their model or the daemon goes away."""
    stall_s: float = Field(default=120, gt=0)
    """A worker that has work and shows no life for this long is killed."""
    load_timeout_s: float = Field(default=1800, gt=0)
    max_body_mb: int = Field(default=32, ge=1)


class DefaultModel(ConfigModel):
    """A model to load at start; fields as in `POST /models/load`."""

    model: str
    engine: str | None = None
    devices: list[int] | None = None
    max_seq_len: int | None = Field(default=None, ge=1)
    cache_mode: str | None = None
    cache_tokens: int | None = Field(default=None, ge=1)
    slots: int | None = Field(default=None, ge=1)


class NeuronConfig(ConfigModel):
    """Everything neuron.toml may say."""

    listen: str = f"127.0.0.1:{DEFAULT_PORT}"
    auth: Literal["none"] | None = None
    """`"none"` is the consent that listening beyond loopback asks for."""
    models_dirs: list[Path] = Field(
        default_factory=lambda: [paths.data_dir() / "models"]
    )
    default_models: list[DefaultModel] = Field(default_factory=list)
    limits: Limits = Limits()

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        Address.parse(value)
        return value

    @field_validator("models_dirs")
    @classmethod
    def _expand_home(cls, value: list[Path]) -> list[Path]:
        return [path.expanduser() for path in value]

    @model_validator(mode="after")
    def _strangers_need_consent(self) -> Self:
        if self.auth is None and not self.address.is_loopback:
            raise ValueError(
                f'listen = "{self.listen}" reaches beyond this host and a neuron has no'
                ' keys: set auth = "none" to allow it'
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
    loaded = load(NeuronConfig, NAME, explicit=explicit, env_prefix=ENV_PREFIX)
    changes: dict[str, object] = {}
    if listen is not None:
        changes["listen"] = listen
    if models_dirs:
        changes["models_dirs"] = models_dirs
    if not changes:
        return loaded
    merged = loaded.config.model_dump(exclude_unset=True) | changes
    return Loaded(NeuronConfig.model_validate(merged), loaded.path)
