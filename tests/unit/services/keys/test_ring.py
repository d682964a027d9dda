"""Which of the things a client shows is a key."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, strategies as st

from services.keys import secret
from services.keys.file import KeySection
from services.keys.ring import KeyRing, Problem

NOW = 1_790_000_000.0
SECRET = secret.new_secret("alice")
OLD = secret.new_secret("alice")


def entry(key_id: str = "alice", shown: str = SECRET, **fields: Any) -> KeySection:
    values = {"id": key_id, "name": key_id, "hash": secret.hashed(shown), **fields}
    return KeySection.model_validate(values)


def test_a_key_is_found_among_placeholders() -> None:
    alice = entry()
    ring = KeyRing([alice])
    assert ring.find([SECRET], NOW) is alice
    assert ring.find(["sk-dummy", SECRET], NOW) is alice


def test_the_first_known_one_wins() -> None:
    other = secret.new_secret("other")
    ring = KeyRing([entry(), entry("other", other)])
    found = ring.find([other, SECRET], NOW)
    assert isinstance(found, KeySection)
    assert found.id == "other"


def test_what_is_no_key() -> None:
    ring = KeyRing([entry()])
    assert ring.find([], NOW) is Problem.MISSING
    for shown in (
        "dummy",
        "",
        "ck-",
        "ck-alice-",
        "ck-alice-0",
        "ck-bob-0",
        SECRET[1:],
    ):
        assert ring.find([shown], NOW) is Problem.UNKNOWN, shown
    assert KeyRing().find([SECRET], NOW) is Problem.UNKNOWN


def test_a_revoked_key_opens_nothing_and_only_its_holder_is_told() -> None:
    ring = KeyRing([entry(revoked=True)])
    assert ring.find([SECRET], NOW) is Problem.REVOKED
    assert ring.find(["ck-alice-guess"], NOW) is Problem.UNKNOWN


def test_the_key_before_the_last_rotation_is_good_for_a_while() -> None:
    until = datetime.fromtimestamp(NOW, UTC)
    fields: dict[str, Any] = {
        "previous_hash": secret.hashed(OLD),
        "previous_until": until,
    }
    alice = entry(**fields)
    ring = KeyRing([alice])
    assert ring.find([OLD], NOW - 1) is alice
    assert ring.find([OLD], NOW) is Problem.REPLACED
    assert ring.find([SECRET], NOW) is alice
    assert ring.find(["ck-alice-guess"], NOW - 1) is Problem.UNKNOWN
    gone = KeyRing([entry(**fields, revoked=True)])
    assert gone.find([OLD], NOW - 1) is Problem.REVOKED


def test_secrets_differ_and_say_whose_they_are() -> None:
    made = {secret.new_secret(secret.new_id()) for _ in range(200)}
    assert len(made) == 200
    for shown in made:
        key_id = secret.id_of(shown)
        assert key_id is not None
        assert shown.startswith(f"ck-{key_id}-")
        assert entry(key_id, shown).id == key_id
        assert KeyRing([entry(key_id, shown)]).find([shown], NOW) != Problem.UNKNOWN


@given(st.text())
def test_nothing_that_anybody_shows_breaks_it(shown: str) -> None:
    assert KeyRing([entry()]).find([shown], NOW) is Problem.UNKNOWN


def test_a_header_that_is_no_text() -> None:
    assert KeyRing([entry()]).find(["ck-alice-\udcff"], NOW) is Problem.UNKNOWN
