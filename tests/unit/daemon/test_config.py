"""neuron.toml and what overrides it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from neuron.config import NeuronConfig, load_config
from neuron.protocol.config_file import ConfigError, load


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "192.168.1.5:1", "gpu1:1", "[::]:1"])
def test_reaching_beyond_this_host_needs_consent(listen: str) -> None:
    with pytest.raises(ValidationError, match='auth = "none"'):
        NeuronConfig(listen=listen)
    assert NeuronConfig(listen=listen, auth="none").listen == listen
    assert NeuronConfig(listen=listen, token="secret").listen == listen


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.8.8:0"]
)
def test_this_host_needs_none(listen: str) -> None:
    assert NeuronConfig(listen=listen).address.is_loopback


def test_the_file_that_lacks_consent_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('listen = "0.0.0.0:1"\n')
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert str(refused.value) == (
        f'{file}: listen = "0.0.0.0:1" reaches beyond this host: set a token, which'
        ' gateways then have to show, or auth = "none" to let anybody in'
    )


@pytest.mark.parametrize("wrong", ['""', '"my secret"', "5678"])
def test_a_token_is_shown_to_nobody(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text(f"token = {wrong}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert str(refused.value) == (
        f"{file}:1: token: should be text without blanks, in ASCII"
    )
    assert "secret" not in repr(NeuronConfig(token="secret"))


def test_the_environments_token_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('token = "a"\n')
    monkeypatch.setenv("NEURON_TOKEN", "1e5")
    assert load_config(file).config.token == "1e5"
    monkeypatch.setenv("NEURON_TOKEN", "my secret")
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert str(refused.value).startswith("environment variable NEURON_TOKEN: should")
    assert "secret" not in str(refused.value)


def test_arguments_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('listen = "127.0.0.1:1"\n[limits]\ndrain_s = 3\n')
    config = load_config(file, listen="127.0.0.1:2", models_dirs=[tmp_path]).config
    assert config.listen == "127.0.0.1:2"
    assert config.models_dirs == [tmp_path]
    assert config.limits.drain_s == 3


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text("[limits]\nstall_s = 3\nmax_queue = 2\n")
    loaded = load(
        NeuronConfig,
        "neuron.toml",
        explicit=file,
        env_prefix="NEURON_",
        environ={"NEURON_LIMITS__STALL_S": "9", "NEURON_RT_LOG": "x"},
    )
    assert (loaded.config.limits.stall_s, loaded.config.limits.max_queue) == (9, 2)


def test_default_models_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('[[default_models]]\nmodel = "a"\nslots = 0\n')
    with pytest.raises(ConfigError, match=r"neuron.toml:3: default_models.0.slots"):
        load_config(file)
    file.write_text(
        '[[default_models]]\nmodel = "a"\nloras = [{ path = "b", weight = 1 }]\n'
    )
    with pytest.raises(ConfigError, match=r"toml:3: .*loras.0.weight: unknown key"):
        load_config(file)
