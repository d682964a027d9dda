"""What each key has spent, by the hour, in memory; `services.keys.store` keeps it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from services.keys.window import MAX_HOURS, hour_of


@dataclass(slots=True)
class Spent:
    """Of one key, in some hours."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    """Those of the prompt tokens that a prefix cache held."""
    completion: int = 0
    cost: float = 0.0
    last_used: float = 0.0
    """Epoch seconds."""

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    def add(self, other: "Spent") -> None:
        self.requests += other.requests
        self.prompt += other.prompt
        self.cached += other.cached
        self.completion += other.completion
        self.cost += other.cost
        self.last_used = max(self.last_used, other.last_used)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key spent in an hour."""

    key: str
    hour: int
    spent: Spent


@dataclass(slots=True)
class _Account:
    """Of one key."""

    hours: dict[int, Spent] = field(default_factory=dict)
    since: int = 0
    sum: Spent | None = None
    """Of the hours from `since` on, where it has been asked for."""
    last_used: float = 0.0

    def add(self, hour: int, spent: Spent) -> None:
        self.hours.setdefault(hour, Spent()).add(spent)
        self.last_used = max(self.last_used, spent.last_used)
        if self.sum is not None and hour >= self.since:
            self.sum.add(spent)

    def sum_since(self, hour: int) -> Spent:
        if self.sum is None or self.since != hour:
            self.since, self.sum = hour, Spent()
            for at, spent in self.hours.items():
                if at >= hour:
                    self.sum.add(spent)
        return self.sum


class Ledger:
    """Grows by one entry an hour for each key that is used; a year's are kept."""

    def __init__(self) -> None:
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)
        self._unsaved: dict[tuple[str, int], Spent] = {}

    def add(self, key: str, spent: Spent) -> None:
        """Book it in the hour of `spent.last_used`."""
        hour = hour_of(spent.last_used)
        account = self._accounts[key]
        if hour not in account.hours:
            for old in [at for at in account.hours if at < hour - MAX_HOURS]:
                del account.hours[old]
        account.add(hour, spent)
        self._unsaved.setdefault((key, hour), Spent()).add(spent)

    def since(self, key: str, hour: int) -> Spent:
        """All that the key has spent from that hour on."""
        return replace(self._accounts[key].sum_since(hour))

    def last_used(self, key: str) -> float | None:
        return self._accounts[key].last_used or None

    def restore(self, entries: Iterable[Entry]) -> None:
        """Begin with what was kept."""
        for entry in entries:
            self._accounts[entry.key].add(entry.hour, entry.spent)

    def take_unsaved(self) -> list[Entry]:
        """What was added since the last call, by key and hour."""
        taken, self._unsaved = self._unsaved, {}
        return [Entry(key, hour, spent) for (key, hour), spent in taken.items()]

    def put_back(self, entries: Iterable[Entry]) -> None:
        """These could not be saved; try again with the next ones."""
        for entry in entries:
            at = entry.key, entry.hour
            self._unsaved.setdefault(at, Spent()).add(entry.spent)
