"""`--write`: what happens to the client's own files."""

import json
import stat
import tomllib
from pathlib import Path

import pytest

from cortex_tui.connect.client import PLACEHOLDER, Connection, Folders
from cortex_tui.connect.clients import CLIENTS, find
from cortex_tui.connect.command import merge_files
from cortex_tui.connect.writing import WriteError

KEY = "ck-abcdefgh-0123456789"
WITHOUT_KEY = Connection("http://127.0.0.1:31313", "small", context=4096)
WITH_KEY = Connection("http://127.0.0.1:31313", "small", KEY, 4096)
WRITABLE = [client.id for client in CLIENTS if client.files is not None]


def write(id_: str, to: Connection, home: Path) -> str:
    client = find(id_)
    assert client is not None
    return merge_files(client, to, Folders(home))


def contents(home: Path) -> dict[Path, str]:
    return {p: p.read_text("utf-8") for p in home.rglob("*") if p.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("id_", WRITABLE)
def test_new_files_are_private_and_stay_as_they_are(id_: str, tmp_path: Path) -> None:
    said = write(id_, WITH_KEY, tmp_path)
    made = contents(tmp_path)
    assert {mode(path) for path in made} == {0o600}
    assert all(f"{path}: made" in said for path in made)
    said = write(id_, WITH_KEY, tmp_path)
    assert contents(tmp_path) == made
    assert said.count("says so already") == len(made)
    write(id_, WITHOUT_KEY, tmp_path)
    assert any(KEY in text for text in contents(tmp_path).values()) is (
        id_ not in ("codex", "zed")  # They read it from the environment.
    )


@pytest.mark.parametrize("id_", WRITABLE)
def test_a_second_model_joins_the_first(id_: str, tmp_path: Path) -> None:
    write(id_, WITHOUT_KEY, tmp_path)
    other = Connection(WITHOUT_KEY.url, "large", context=8192)
    write(id_, other, tmp_path)
    text = "\n".join(contents(tmp_path).values())
    assert "large" in text
    keeps_one = id_ in ("claude-code", "codex")
    assert ("small" in text) is not keeps_one


def test_what_was_there_stays_and_changes_are_named(tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(
        '# mine\nmodel = "gpt-5" # the best\n\n[tools]\nweb = true\n', encoding="utf-8"
    )
    path.chmod(0o640)
    said = write("codex", WITHOUT_KEY, tmp_path)
    assert said.splitlines()[:5] == [
        f"{path}: merged",
        "  model: changed",
        "  model_provider: added",
        "  model_context_window: added",
        "  model_providers: added",
    ]
    text = path.read_text("utf-8")
    assert text.startswith('# mine\nmodel = "small" # the best\n')
    assert tomllib.loads(text)["tools"] == {"web": True}
    assert mode(path) == 0o640, "there is no key in it"


def test_a_file_with_a_key_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / ".config" / "opencode" / "opencode.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"theme": "dark"}', encoding="utf-8")
    path.chmod(0o644)
    said = write("opencode", WITH_KEY, tmp_path)
    assert mode(path) == 0o600
    assert "closed to other users" in said
    assert KEY not in said
    path.chmod(0o644)
    assert "closed to other users" in write("opencode", WITH_KEY, tmp_path)
    assert mode(path) == 0o600


def test_a_placeholder_replaces_no_key(tmp_path: Path) -> None:
    path = tmp_path / ".aider.conf.yml"
    path.write_text("openai-api-key: mine\n", encoding="utf-8")
    said = write("aider", WITHOUT_KEY, tmp_path)
    assert "the key that is there stays, and is shown to the gateway" in said
    text = path.read_text("utf-8")
    assert "openai-api-key: mine\n" in text
    assert PLACEHOLDER not in text
    assert "the key that" not in write("aider", WITH_KEY, tmp_path)
    assert f'openai-api-key: "{KEY}"\n' in path.read_text("utf-8")


def test_a_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "zed.json"
    real.parent.mkdir()
    real.write_text('{\n  // dark\n  "theme": "One Dark",\n}\n', encoding="utf-8")
    link = tmp_path / ".config" / "zed" / "settings.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    write("zed", WITHOUT_KEY, tmp_path)
    assert link.is_symlink()
    assert real.read_text("utf-8").startswith('{\n  // dark\n  "theme": "One Dark",\n')


def test_nothing_is_written_where_one_file_is_in_the_way(tmp_path: Path) -> None:
    broken = tmp_path / ".aider.model.metadata.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(WriteError, match=r"metadata.json stays as it is: line 1"):
        write("aider", WITHOUT_KEY, tmp_path)
    assert not (tmp_path / ".aider.conf.yml").exists()


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / ".qwen" / "settings.json"
    path.mkdir(parents=True)
    with pytest.raises(WriteError, match="Is a directory"):
        write("qwen-code", WITHOUT_KEY, tmp_path)
    path.rmdir()
    path.write_bytes(b"\xff")
    with pytest.raises(WriteError, match="not UTF-8"):
        write("qwen-code", WITHOUT_KEY, tmp_path)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(WriteError, match="symbolic links"):
        write("qwen-code", WITHOUT_KEY, tmp_path)
    (tmp_path / ".pi").write_text("", encoding="utf-8")
    with pytest.raises(WriteError, match=r"models.json: Not a directory"):
        write("pi", WITHOUT_KEY, tmp_path)


def test_windows_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(b'{\r\n  "model": "opus"\r\n}\r\n')
    write("claude-code", WITHOUT_KEY, tmp_path)
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n")
    assert json.loads(content)["env"]["ANTHROPIC_MODEL"] == "small"


@pytest.mark.parametrize(
    "id_", sorted({client.id for client in CLIENTS} - set(WRITABLE))
)
def test_clients_without_files_are_refused(id_: str, tmp_path: Path) -> None:
    with pytest.raises(
        WriteError, match=rf"use what `cortex-tui connect {id_}` prints"
    ):
        write(id_, WITH_KEY, tmp_path)
    assert contents(tmp_path) == {}
