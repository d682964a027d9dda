"""What a client shows, and what is kept of it: `ck-<id>-<random>`, and its SHA-256.

The random part has 192 bits, so a fast hash is enough: nobody tries them all.
"""

import hashlib
import hmac
import secrets
from typing import Final

PREFIX: Final = "ck"
_ID_CHARACTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without those that look alike."""
_ID_LENGTH: Final = 8
_RANDOM_BYTES: Final = 24
_HASH: Final = "sha256:"


def new_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def new_secret(key_id: str) -> str:
    return f"{PREFIX}-{key_id}-{secrets.token_hex(_RANDOM_BYTES)}"


def id_of(secret: str) -> str | None:
    """The id that a secret claims; None where it is none of ours, such as a
    placeholder."""
    prefix, _, rest = secret.partition("-")
    key_id, separator, random = rest.partition("-")
    return key_id if prefix == PREFIX and separator and random else None


def hashed(secret: str) -> str:
    """What is kept."""
    # Header values that are no UTF-8 arrive with surrogates.
    data = secret.encode("utf-8", "surrogatepass")
    return _HASH + hashlib.sha256(data).hexdigest()


def matches(secret: str, kept: str) -> bool:
    """Whether `kept` is the hash of `secret`, in a time that tells nothing."""
    return hmac.compare_digest(hashed(secret), kept)
