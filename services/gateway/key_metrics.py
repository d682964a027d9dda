"""The numbers of keys, by their names."""

from prometheus_client import CollectorRegistry, Counter

from services.keys.ledger import Spent


class KeyMetrics:
    """Counters; who is refused for want of a key has no name to count by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._unauthorized = Counter(
            "cortex_unauthorized",
            "Requests refused for want of a key, or of its scope",
            ("code",),
            registry=registry,
        )
        self._requests = Counter(
            "cortex_key_requests",
            "Requests of a key for a model that ended, refused ones included",
            ("key", "status"),
            registry=registry,
        )
        self._tokens = Counter(
            "cortex_key_tokens",
            "Tokens of a key; kind: prompt (cached included), cached, completion",
            ("key", "kind"),
            registry=registry,
        )
        self._cost = Counter(
            "cortex_key_cost",
            "What a key spent, by the cost of the models in models.toml",
            ("key",),
            registry=registry,
        )

    def unauthorized(self, code: str) -> None:
        self._unauthorized.labels(code).inc()

    def request_refused(self, key: str, status: int) -> None:
        self._requests.labels(key, str(status)).inc()

    def request_ended(self, key: str, status: int, spent: Spent) -> None:
        self._requests.labels(key, str(status)).inc()
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(key, kind).inc(getattr(spent, kind))
        self._cost.labels(key).inc(spent.cost)
