"""keys.toml: what it may say, and how it is refused."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuron.protocol.config_file import ConfigError
from services.keys import secret
from services.keys.file import KeySection, load_keys, read_keys
from services.keys.window import HOUR_S

SECRET = "ck-alice234-" + "5e" * 24
ENTRY = f"""\
[[keys]]
id = "alice234"
name = "alice"
hash = "{secret.hashed(SECRET)}"
"""


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    file = path / "keys.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def test_an_absent_file_has_no_keys(tmp_path: Path) -> None:
    keys = load_keys(tmp_path / "cortex.toml")
    assert (keys.entries, keys.found) == ((), False)
    assert keys.path == tmp_path / "keys.toml"


def test_a_whole_entry(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        ENTRY
        + """
        scope = "read-only"
        models = ["qwen*", "llama-3"]
        requests_per_minute = 60
        tokens_per_minute = 1000
        budget_tokens = 5000
        budget_cost = 2.5
        window = "1d"
        priority = -5
        created_at = 2026-11-24T11:20:00Z
        revoked = true
        """,
    )
    keys = load_keys(tmp_path / "cortex.toml")
    assert (keys.found, keys.path, keys.warning) == (True, file, None)
    (alice,) = keys.entries
    assert (alice.name, alice.scope, alice.priority) == ("alice", "read-only", -5)
    assert (alice.requests_per_minute, alice.tokens_per_minute) == (60, 1000)
    assert (alice.budget_tokens, alice.budget_cost) == (5000, 2.5)
    assert alice.revoked
    assert [m for m in ("qwen3", "llama-3", "llama-33") if alice.may_use(m)] == [
        "qwen3",
        "llama-3",
    ]


def test_what_may_be_left_out(tmp_path: Path) -> None:
    (alice,) = read_keys(written(tmp_path, ENTRY)).entries
    assert (alice.scope, alice.priority, alice.revoked) == ("inference", 0, False)
    assert alice.may_use("anything/at all")
    assert alice.requests_per_minute is None
    assert alice.budget_tokens is None


def test_windows_follow_one_another_from_the_day_it_was_made(tmp_path: Path) -> None:
    made = datetime(2026, 11, 24, 11, 20, tzinfo=UTC)
    text = ENTRY + f'window = "1d"\ncreated_at = {made.isoformat()}\n'
    (alice,) = read_keys(written(tmp_path, text)).entries
    eleven = made.timestamp() - 20 * 60
    assert alice.window_began(made.timestamp()) * HOUR_S == eleven
    assert alice.renews_at(made.timestamp()) == eleven + 24 * HOUR_S
    later = made.timestamp() + 49 * HOUR_S
    assert alice.window_began(later) * HOUR_S == eleven + 48 * HOUR_S


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (ENTRY + "scop = 'admin'\n", 5, "keys.0.scop: unknown key"),
        (ENTRY + "scope = 'root'\n", 5, "keys.0.scope: "),
        (ENTRY + "\nwindow = '5m'\n", 6, 'in "30d"'),
        (ENTRY + "window = '9999d'\n", 5, '"366d" at most'),
        (ENTRY + "budget_tokens = 0\n", 5, "keys.0.budget_tokens: "),
        (ENTRY + "models = []\n", 5, "keys.0.models: "),
        (ENTRY + "models = ['a', '']\n", 5, "keys.0.models.1: should be printable"),
        (ENTRY + "models = ['a', ' b']\n", 5, "keys.0.models.1: should be printable"),
        (ENTRY + "budget_cost = nan\n", 5, "keys.0.budget_cost: "),
        (ENTRY + "priority = 5000\n", 5, "keys.0.priority: "),
        (ENTRY + ENTRY, 6, "keys.1.id: 'alice234' is repeated"),
        (
            ENTRY + ENTRY.replace("alice234", "other"),
            7,
            "keys.1.name: 'alice' is repeated",
        ),
        (ENTRY.replace('"alice"', '"a\\nb"'), 3, "keys.0.name: should be printable"),
        (ENTRY + "previous_until = 2026-01-01T00:00:00Z\n", 1, "go together"),
        ("[[keys]]\nname = 'a'\n", 1, "keys.0.id: "),
        ("keys = 5\n", 1, "keys: "),
        (
            ENTRY.replace("[[keys]]", "[keys]"),
            1,
            "keys: should be tables",
        ),
    ],
)
def test_refusals_name_file_line_and_key(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_keys(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("field", ["id", "hash", "previous_hash", "secret"])
def test_a_secret_in_the_wrong_place_is_not_repeated(
    tmp_path: Path, field: str
) -> None:
    text = re.sub(f"^{field} = .*\n", "", ENTRY, flags=re.MULTILINE)
    file = written(tmp_path, text + f'{field} = "{SECRET}"\n')
    with pytest.raises(ConfigError) as caught:
        read_keys(file)
    assert f"keys.0.{field}: " in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        ENTRY.replace("[[keys]]", "[keys]"),
        f"keys = ['{SECRET}']\n",
        f"[[keys]]\nhash = ['{SECRET}']\n",
        f"[[keys]]\nid = ['{SECRET}']\nname = '{SECRET}\t'\n",
    ],
)
def test_what_stands_in_the_wrong_form_is_not_repeated(
    tmp_path: Path, text: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match="keys") as caught:
        read_keys(file)
    for secret_ in (SECRET, secret.hashed(SECRET)):
        assert secret_ not in str(caught.value)


def test_a_name_is_free_again_once_its_key_is_revoked(tmp_path: Path) -> None:
    text = ENTRY + "revoked = true\n" + ENTRY.replace("alice234", "other")
    assert len(read_keys(written(tmp_path, text)).entries) == 2


def test_a_file_that_others_may_read_is_told_how_to_close_it(tmp_path: Path) -> None:
    file = written(tmp_path, ENTRY, 0o644)
    assert f"chmod o-rwx {file}" in (read_keys(file).warning or "")
    file.chmod(0o640)
    assert read_keys(file).warning is None


def test_hashes_are_not_shown(tmp_path: Path) -> None:
    (alice,) = read_keys(written(tmp_path, ENTRY)).entries
    assert alice.hash not in repr(alice)


def test_a_moment_without_a_time_zone_is_utc() -> None:
    common = {"id": "alice", "name": "a", "hash": secret.hashed("x"), "window": "1h"}
    naive, aware = (
        KeySection.model_validate({**common, "created_at": moment})
        for moment in (
            datetime(2026, 1, 1),
            datetime(2026, 1, 1, tzinfo=UTC),
        )
    )
    assert naive.renews_at(2e9) == aware.renews_at(2e9)
