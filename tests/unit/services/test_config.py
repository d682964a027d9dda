"""cortex.toml and models.toml: defaults, overrides and refusals."""

from pathlib import Path

import pytest

from neuron.protocol.config_file import ConfigError
from neuron.protocol.load_config import LoraSection
from services.config import load_settings
from tests.support.processes import Home


@pytest.fixture(autouse=True)
def user(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("neuron.protocol.paths.SYSTEM_CONFIG_DIR", home.root / "etc")
    return home


def refusal(home: Home, cortex: str = "", models: str | None = None) -> str:
    home.config_file("cortex.toml", cortex)
    if models is not None:
        home.config_file("models.toml", models)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    return str(caught.value)


def test_without_any_file_this_host_alone_is_served(user: Home) -> None:
    settings = load_settings()
    assert settings.config_path is None
    assert settings.config.runs_local_neuron
    assert settings.config.gateway.listen == "127.0.0.1:31313"
    assert settings.config.gateway.metrics_listen == "127.0.0.1:31314"
    assert not settings.catalogue.found
    assert settings.catalogue.path == user.root / "config/cortex/models.toml"


def test_a_whole_configuration_is_read(user: Home) -> None:
    user.config_file(
        "cortex.toml",
        """
        [gateway]
        listen = "0.0.0.0:8000"
        metrics_listen = "off"
        auth = "none"
        drain_s = 5
        load_timeout_s = 30

        [[neurons]]
        name = "beast"
        endpoint = "http://beast:13131/"
        token = "secret"

        [[neurons]]
        name = "benjy"
        endpoint = "http://benjy:13131"
        """,
    )
    user.config_file(
        "models.toml",
        """
        [[models]]
        id = "org/big"
        pinned = true
        ttl = 600
        place_on = ["beast"]
        max_seq_len = 4096
        draft = "org/small"
        draft_tokens = 3
        ngram = true
        tensor_parallel = true
        rope_scale = 2
        rope_alpha = 2.5
        yarn_factor = 4.0
        loras = [{ path = "tone" }]

        [[models]]
        id = "org/other"

        [[models.loras]]
        path = "/adapters/style"
        scale = 0.5
        """,
    )
    settings = load_settings()
    beast, benjy = settings.config.neurons
    assert (beast.endpoint, beast.token) == ("http://beast:13131", "secret")
    assert benjy.token is None
    assert not settings.config.runs_local_neuron
    assert settings.config.gateway.drain_s == 5
    assert settings.catalogue.found
    big = settings.catalogue.entry("org/big")
    assert big.place_on == ("beast",)
    assert big.ttl == 600
    assert (big.draft, big.draft_tokens, big.ngram) == ("org/small", 3, True)
    assert big.tensor_parallel
    assert (big.rope_scale, big.rope_alpha, big.yarn_factor) == (2, 2.5, 4)
    assert big.loras == (LoraSection(path="tone", scale=1),)
    (style,) = settings.catalogue.entry("org/other").loras or ()
    assert (style.path, style.scale) == ("/adapters/style", 0.5)
    assert not settings.catalogue.entry("another").pinned


def test_a_token_in_a_table_of_the_wrong_form_is_not_repeated(user: Home) -> None:
    message = refusal(user, '[neurons]\nname = "a"\ntoken = "secret"\n')
    assert "cortex.toml:1: neurons: should be tables, each written as [[neurons]]" in (
        message
    )
    assert "secret" not in message


def test_a_token_is_not_shown(user: Home) -> None:
    user.config_file(
        "cortex.toml",
        '[[neurons]]\nname = "a"\nendpoint = "http://a:1"\ntoken = "secret"\n',
    )
    assert "secret" not in repr(load_settings())


def test_environment_overrides_the_file(
    user: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.config_file("cortex.toml", '[gateway]\nlisten = "127.0.0.1:1"\n')
    monkeypatch.setenv("CORTEX_GATEWAY__LISTEN", "127.0.0.1:2")
    assert load_settings().config.gateway.listen == "127.0.0.1:2"
    assert load_settings(listen="127.0.0.1:3").config.gateway.listen == "127.0.0.1:3"


def test_an_explicit_file_brings_the_catalogue_beside_it(
    user: Home, tmp_path: Path
) -> None:
    user.config_file("models.toml", '[[models]]\nid = "elsewhere"\n')
    config = tmp_path / "mine.toml"
    config.write_text("")
    assert load_settings(config).catalogue.path == tmp_path / "models.toml"
    assert not load_settings(config).catalogue.found
    (tmp_path / "models.toml").write_text('[[models]]\nid = "here"\n')
    assert list(load_settings(config).catalogue.entries) == ["here"]


@pytest.mark.parametrize(
    ("cortex", "line", "says"),
    [
        ("[gateway]\n\nlisten = 'nowhere'\n", 3, "gateway.listen: "),
        ("[gateway]\ndrain_s = -1\n", 2, "gateway.drain_s: "),
        ("[gateway]\ndrain = 1\n", 2, "gateway.drain: unknown key"),
        ("[eviction]\nstrategy = 'lru'\n", 1, "eviction: unknown key"),
        ("[local]\nneuron = 'maybe'\n", 2, "local.neuron: "),
        ("[[neurons]]\nname = 'a'\n", 1, "neurons.0.endpoint: "),
        (
            "[[neurons]]\nname = 'a'\nendpoint = 'beast:1'\n",
            3,
            "neurons.0.endpoint: ",
        ),
        (
            "[[neurons]]\nname = 'a'\nendpoint = 'http://a/v1'\n",
            3,
            "without a path",
        ),
        (
            (
                "[[neurons]]\nname = 'a'\nendpoint = 'http://a:1'\n"
                "[[neurons]]\nname = 'a'\nendpoint = 'http://b:1'\n"
            ),
            5,
            "neurons.1.name: 'a' is repeated",
        ),
        ("[gateway]\nlisten = '0.0.0.0:1'\n", 2, 'auth = "none"'),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    user: Home, cortex: str, line: int, says: str
) -> None:
    message = refusal(user, cortex)
    assert f"cortex.toml:{line}: " in message
    assert says in message


@pytest.mark.parametrize(
    ("models", "line", "says"),
    [
        ("[[models]]\nid = 'a'\npined = true\n", 3, "models.0.pined: unknown key"),
        (
            "[[models]]\nid = 'a'\n[[models]]\nid = 'a'\n",
            4,
            "models.1.id: 'a' is repeated",
        ),
        (
            "[[models]]\nid = 'a'\n\nplace_on = ['moon']\n",
            4,
            "no neuron is named 'moon'; there is: local",
        ),
        (
            "[[models]]\nid = 'a'\naliases = ['b']\n[[models]]\nid = 'b'\n",
            3,
            "models.0.aliases: 'b' is the id of another model",
        ),
        (
            "[[models]]\nid = 'a'\naliases = ['x*', 'x*']\n",
            3,
            "models.0.aliases: 'x*' is an alias of 'a' already",
        ),
        ("default_model = ''\n", 1, "default_model: "),
        ("[[models]]\nid = 'a'\nslots = 0\n", 3, "models.0.slots: "),
        ("[[models]]\nid = 'a'\nttl = 0\n", 3, "models.0.ttl: "),
        ("[[models]]\nid = 'a'\ndraft_tokens = 0\n", 3, "models.0.draft_tokens: "),
        ("[[models]]\nid = 'a'\nngram = 'often'\n", 3, "models.0.ngram: "),
        ("[[models]]\nid = 'a'\n\nrope_scale = 0.5\n", 4, "models.0.rope_scale: "),
        ("[[models]]\nid = 'a'\nrope_alpha = inf\n", 3, "models.0.rope_alpha: "),
        ("[[models]]\nid = 'a'\nyarn_factor = 0\n", 3, "models.0.yarn_factor: "),
        ("[[models]]\nid = 'a'\nloras = 'tone'\n", 3, "models.0.loras: "),
        (
            "[[models]]\nid = 'a'\nloras = [{path = 'b'}, {path = ''}]\n",
            3,
            "models.0.loras.1.path: ",
        ),
        (
            (
                "[[models]]\nid = 'a'\n[[models]]\nid = 'b'\n[[models.loras]]\n"
                "path = 'c'\n[[models.loras]]\npath = 'd'\nweight = 1\n"
            ),
            9,
            "models.1.loras.1.weight: unknown key",
        ),
    ],
)
def test_a_wrong_catalogue_is_named_with_its_line(
    user: Home, models: str, line: int, says: str
) -> None:
    message = refusal(user, models=models)
    assert f"models.toml:{line}: " in message
    assert says in message


def test_a_neuron_may_not_take_the_local_ones_name(user: Home) -> None:
    message = refusal(
        user,
        "[local]\nneuron = 'on'\n[[neurons]]\nname = 'local'\nendpoint = 'http://a:1'",
    )
    assert "'local' belongs to this host's own neuron" in message


def test_listening_beyond_loopback_by_argument_needs_consent_too(user: Home) -> None:
    with pytest.raises(ConfigError, match='auth = "none"'):
        load_settings(listen="0.0.0.0:1")
    user.config_file("cortex.toml", '[gateway]\nauth = "none"\n')
    assert load_settings(listen="0.0.0.0:1").config.gateway.listen == "0.0.0.0:1"
    with pytest.raises(ConfigError, match="--listen nowhere: should be HOST:PORT"):
        load_settings(listen="nowhere")


KEY = f"[[keys]]\nid = 'alice'\nname = 'alice'\nhash = 'sha256:{'0' * 64}'\n"


def test_listening_beyond_loopback_with_keys(user: Home) -> None:
    with pytest.raises(ConfigError, match=r"cortex-tui keys add NAME.*keys\.toml"):
        load_settings(listen="0.0.0.0:1")
    user.config_file("keys.toml", KEY)
    assert len(load_settings(listen="0.0.0.0:1").keys.entries) == 1
    user.config_file("keys.toml", "")
    user.config_file("cortex.toml", '[gateway]\nauth = "keys"\n')
    assert load_settings(listen="0.0.0.0:1").config.gateway.auth == "keys"


def test_an_explicit_file_brings_the_keys_beside_it(user: Home, tmp_path: Path) -> None:
    user.config_file("keys.toml", KEY)
    config = tmp_path / "mine.toml"
    config.write_text("")
    assert load_settings(config).keys.path == tmp_path / "keys.toml"
    assert load_settings(config).keys.entries == ()
    assert len(load_settings().keys.entries) == 1


def test_a_broken_keys_file_is_refused(user: Home) -> None:
    file = user.config_file("keys.toml", KEY + "rpm = 1\n")
    with pytest.raises(ConfigError, match=f"{file}:5: keys.0.rpm: unknown key"):
        load_settings()


def test_the_command_lines_own_variable_is_not_complained_of(
    user: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CORTEX_KEY", "ck-alice-1")
    monkeypatch.setenv("CORTEX_KEYS", "1")
    load_settings()
    assert "CORTEX_KEYS" in caplog.text
    assert "CORTEX_KEY " not in caplog.text


@pytest.mark.parametrize(
    "origin",
    [
        "chat.example",
        "https://chat.example/",
        "https://Chat.example",
        "null",
        "https://",
        "",
    ],
)
def test_origins_are_origins(user: Home, origin: str) -> None:
    message = refusal(user, f"[gateway]\ncors_origins = ['*', '{origin}']\n")
    assert "cortex.toml:2: gateway.cors_origins.1: should be an origin" in message


def test_origins(user: Home) -> None:
    origins = ("https://chat.example", "http://localhost:3000", "*")
    user.config_file("cortex.toml", f"[gateway]\ncors_origins = {list(origins)}\n")
    assert load_settings().config.gateway.cors_origins == origins


def test_costs_are_by_the_million(user: Home) -> None:
    user.config_file(
        "models.toml",
        """
        models = [
            { id = "a", cost = { input = 2, output = 6, cached_input = 0.5 } },
            { id = "b", cost = { input = 2, output = 6 } },
            { id = "c" },
        ]
        """,
    )
    catalogue = load_settings().catalogue
    dear, plain = catalogue.entry("a").cost, catalogue.entry("b").cost
    assert dear is not None
    assert plain is not None
    assert dear.of(10**6, 400_000, 10**5) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.6)
    assert plain.of(10**6, 400_000, 10**5) == pytest.approx(2 + 0.6)
    assert catalogue.entry("c").cost is None
    message = refusal(user, models="[[models]]\nid = 'a'\ncost = { input = -1 }\n")
    assert "models.0.cost.input: " in message
    assert "models.0.cost.output: " in message
