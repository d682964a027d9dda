"""Which key a client has shown."""

from collections.abc import Iterable
from enum import Enum

from services.keys import secret as secrets
from services.keys.file import KeySection, epoch


class Problem(Enum):
    """Why what was shown opens nothing, in words for whoever showed it."""

    MISSING = "this gateway needs a key, as `Authorization: Bearer KEY` or `x-api-key`"
    UNKNOWN = "the key is not one of this gateway's"
    REPLACED = "the key was replaced by a newer one"
    REVOKED = "the key was revoked"


class KeyRing:
    """Every key there is."""

    def __init__(self, entries: Iterable[KeySection] = ()) -> None:
        self._by_id = {entry.id: entry for entry in entries}

    def find(self, shown: Iterable[str], now: float) -> KeySection | Problem:
        """The first of `shown` that is good, or what is wrong with the last one."""
        problem = Problem.MISSING
        for secret in shown:
            found = self._judge(secret, now)
            if isinstance(found, KeySection):
                return found
            problem = found
        return problem

    def _judge(self, secret: str, now: float) -> KeySection | Problem:
        entry = self._by_id.get(secrets.id_of(secret) or "")
        if entry is None:
            return Problem.UNKNOWN
        if secrets.matches(secret, entry.hash):
            return Problem.REVOKED if entry.revoked else entry
        if entry.previous_hash is None or entry.previous_until is None:
            return Problem.UNKNOWN
        if not secrets.matches(secret, entry.previous_hash):
            return Problem.UNKNOWN
        if entry.revoked:
            return Problem.REVOKED
        return entry if now < epoch(entry.previous_until) else Problem.REPLACED
