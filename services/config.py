"""cortex.toml: what it may say, and how it is read with the files beside it.

Every key here does something; any other key is an error with file and line.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from neuron.protocol import config_file, routes
from neuron.protocol.address import Address, Listen
from neuron.protocol.bearer import Token
from neuron.protocol.config_file import ConfigError, ConfigModel
from services.catalogue import Catalogue, Name, Seconds, load_catalogue
from services.keys.file import Keys, load_keys
from services.schema import DEFAULT_METRICS_PORT, DEFAULT_PORT

CORTEX_TOML = "cortex.toml"
ENV_PREFIX = "CORTEX_"
CLIENTS_KEY = "CORTEX_KEY"
"""The variable of the prefix that is the command line's: a key to show elsewhere."""
LOCAL_NODE = "local"
"""Name of the neuron that the gateway runs on its own host."""
OFF = "off"


def _listen_or_off(text: str) -> str:
    if text != OFF:
        Address.parse(text)
    return text


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("should be a URL, such as http://gpu1:13131")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("should be a URL without a path, such as http://gpu1:13131")
    return text.rstrip("/")


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if text != "*" and (
        not parts.hostname or text != f"{parts.scheme}://{parts.netloc}".lower()
    ):
        raise ValueError('should be an origin, such as "https://chat.example", or "*"')
    return text


class GatewaySection(ConfigModel):
    """`[gateway]`."""

    listen: Listen = f"127.0.0.1:{DEFAULT_PORT}"
    """Where the API is served."""
    metrics_listen: Annotated[str, AfterValidator(_listen_or_off)] = (
        f"127.0.0.1:{DEFAULT_METRICS_PORT}"
    )
    """Where Prometheus finds its metrics; `off` serves none."""
    auth: Literal["keys", "none"] | None = None
    """`keys` asks everybody for one, `none` nobody. Default: as soon as there is one in
    `keys.toml`."""
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Origins whose web pages may use models; `*` is any. Requests from pages of others
    are refused, and the admin API is for none."""
    drain_s: Annotated[float, Field(ge=0)] = 30
    """How long requests in flight may go on after a stop was asked for."""
    load_timeout_s: Seconds = 600
    """How long a request waits for its model to be loaded."""
    first_byte_timeout_s: Seconds = 60
    """How long a neuron may take to begin a stream."""
    idle_timeout_s: Seconds = 300
    """How long a stream may be silent."""
    response_timeout_s: Seconds = 1800
    """How long a neuron may take to answer a request that does not stream."""
    max_body_mb: Annotated[int, Field(ge=1, le=1024)] = 64
    """The largest request body, in MiB."""


class NeuronSection(ConfigModel):
    """One `[[neurons]]`."""

    name: Name
    """What the console and `place_on` call it."""
    endpoint: Annotated[str, AfterValidator(_endpoint)]
    """Its URL, such as `http://atlas:13131`."""
    token: Token | None = Field(default=None, repr=False)
    """What this neuron's own `token` says."""


class LocalSection(ConfigModel):
    """`[local]`: the neuron on the gateway's own host."""

    neuron: Literal["auto", "on", "off"] = "auto"
    """`on` runs a neuron on the gateway's own host; `auto` does so unless
    `[[neurons]]` names others."""
    listen: Listen = f"127.0.0.1:{routes.DEFAULT_PORT}"
    """Where it is looked for, and where it is made to listen."""
    token: Token | None = Field(default=None, repr=False)
    """Its token, which it asks for where the gateway starts it. That of its own
    `neuron.toml` needs to be repeated only where somebody else starts it."""


class ResponsesSection(ConfigModel):
    """`[responses]`: what becomes of the answers of `/v1/responses`."""

    store: bool = False
    """Keep them, so that clients can refer to them: each for the key that asked."""
    max_age_h: Annotated[float, Field(gt=0)] = 72
    """Hours after which one is forgotten."""
    max_mb: Annotated[int, Field(ge=1)] = 256
    """Space for all, each with its whole conversation, in MiB; beyond it the oldest are
    forgotten."""


class CortexConfig(ConfigModel):
    """cortex.toml."""

    gateway: GatewaySection = GatewaySection()
    neurons: tuple[NeuronSection, ...] = ()
    local: LocalSection = LocalSection()
    responses: ResponsesSection = ResponsesSection()

    @property
    def runs_local_neuron(self) -> bool:
        if self.local.neuron == "auto":
            return not self.neurons
        return self.local.neuron == "on"

    @property
    def node_names(self) -> set[str]:
        names = {neuron.name for neuron in self.neurons}
        return names | {LOCAL_NODE} if self.runs_local_neuron else names


@dataclass(frozen=True, slots=True)
class Settings:
    """All files, checked against each other."""

    config: CortexConfig
    config_path: Path | None
    catalogue: Catalogue
    keys: Keys = field(default_factory=Keys)
    explicit_path: Path | None = None
    """The cortex.toml that was asked for, where one was."""
    listen: str | None = None
    """Where it was asked to listen, whatever the file says."""


def load_settings(explicit: Path | None = None, listen: str | None = None) -> Settings:
    """Read cortex.toml, and the models.toml and keys.toml that go with it.

    With an `explicit` cortex.toml the others are those beside it; else each is
    looked up on its own. `listen` overrides `[gateway] listen`.

    Raises:
        ConfigError: a file cannot be used; the message names file, line and key.
    """
    environ = {name: os.environ[name] for name in os.environ.keys() - {CLIENTS_KEY}}
    loaded = config_file.load(
        CortexConfig,
        CORTEX_TOML,
        explicit=explicit,
        env_prefix=ENV_PREFIX,
        environ=environ,
    )
    config = _listening(loaded.config, listen)
    config_file.refuse_repeated(
        loaded.path, "neurons", "name", [neuron.name for neuron in config.neurons]
    )
    if config.runs_local_neuron and LOCAL_NODE in {n.name for n in config.neurons}:
        raise ConfigError(
            f"{loaded.path}: neurons: the name '{LOCAL_NODE}' belongs to this host's "
            'own neuron; choose another, or set `neuron = "off"` in [local]'
        )
    keys = load_keys(explicit)
    _check_exposure(loaded.path, config.gateway, keys)
    catalogue = load_catalogue(explicit)
    _check_placement(catalogue, config)
    return Settings(config, loaded.path, catalogue, keys, explicit, listen)


def needs_restart(old: CortexConfig, new: CortexConfig) -> list[str]:
    """Keys that differ and are read at the start only."""
    keys = ("listen", "metrics_listen", "max_body_mb")
    changed = [
        f"gateway.{key}"
        for key in keys
        if getattr(old.gateway, key) != getattr(new.gateway, key)
    ]
    if old.responses != new.responses:
        changed.append("responses")
    locals_ = [(c.local, c.runs_local_neuron) for c in (old, new)]
    return changed if locals_[0] == locals_[1] else [*changed, "local"]


def _listening(config: CortexConfig, listen: str | None) -> CortexConfig:
    if listen is None:
        return config
    try:
        Address.parse(listen)
    except ValueError as error:
        raise ConfigError(f"--listen {listen}: {error}") from error
    gateway = config.gateway.model_copy(update={"listen": listen})
    return config.model_copy(update={"gateway": gateway})


def _check_exposure(path: Path | None, gateway: GatewaySection, keys: Keys) -> None:
    address = Address.parse(gateway.listen)
    if address.is_loopback or gateway.auth is not None or keys.entries:
        return
    raise ConfigError(
        f"{config_file.where(path, ('gateway', 'listen'))}: gateway.listen: "
        f"{gateway.listen} can be reached from other hosts, and whoever reaches it may "
        "use and steer the fleet; make a key with `cortex-tui keys add NAME` "
        f'({keys.path} has none), or accept that with `auth = "none"` in [gateway]'
    )


def _check_placement(catalogue: Catalogue, config: CortexConfig) -> None:
    for index, entry in enumerate(catalogue.entries.values()):
        unknown = sorted(set(entry.place_on) - config.node_names)
        if unknown:
            where = config_file.where(catalogue.path, ("models", index, "place_on"))
            known = ", ".join(sorted(config.node_names)) or "none"
            raise ConfigError(
                f"{where}: models.{index}.place_on: no neuron is named "
                f"'{unknown[0]}'; there is: {known}"
            )
