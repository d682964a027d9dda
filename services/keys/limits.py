"""Whether a key may begin another request: its models, rates and budgets.

Requests are counted as they begin, tokens once they are known. Nothing here waits, so
that between the check and the count there is no other request.
"""

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field

from neuron.protocol.errors import ApiError, overloaded
from services.keys.file import KeySection
from services.keys.ledger import Ledger, Spent
from services.keys.minute import Minute


@dataclass(slots=True)
class Rates:
    """Of one key, in the last minute."""

    requests: Minute = field(default_factory=Minute)
    tokens: Minute = field(default_factory=Minute)


class Limits:
    """Of all keys, by id."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._rates: defaultdict[str, Rates] = defaultdict(Rates)

    def begin(self, key: KeySection) -> None:
        """Count a request that begins.

        Raises:
            ApiError: 429; it has to wait, and for how long.
        """
        now, rates = time.monotonic(), self._rates[key.id]
        self._check_budget(key)
        for minute, limit, what in (
            (rates.requests, key.requests_per_minute, "requests"),
            (rates.tokens, key.tokens_per_minute, "tokens"),
        ):
            wait = math.ceil(minute.wait_below(limit, now)) if limit is not None else 0
            if wait > 0:
                raise overloaded(
                    f"the key '{key.name}' has used up its {what} per minute "
                    f"({limit}); retry in {wait} s",
                    retry_after=wait,
                )
        rates.requests.add(1, now)

    def end(self, key: KeySection, spent: Spent) -> None:
        """Book what a request took."""
        self._rates[key.id].tokens.add(spent.tokens, time.monotonic())
        self.ledger.add(key.id, spent)

    def last_minute(self, key: KeySection) -> tuple[int, int]:
        """(requests, tokens)."""
        now, rates = time.monotonic(), self._rates[key.id]
        return rates.requests.total(now), rates.tokens.total(now)

    def spent(self, key: KeySection, now: float) -> Spent:
        """In the present window of its budget."""
        return self.ledger.since(key.id, key.window_began(now))

    def _check_budget(self, key: KeySection) -> None:
        if key.budget_tokens is None and key.budget_cost is None:
            return
        now = time.time()
        spent = self.spent(key, now)
        if key.budget_tokens is not None and spent.tokens >= key.budget_tokens:
            raise _exhausted(key, f"{key.budget_tokens} tokens", now)
        if key.budget_cost is not None and spent.cost >= key.budget_cost:
            raise _exhausted(key, f"{key.budget_cost:g}", now)


def check_model(key: KeySection, model: str) -> None:
    """
    Raises:
        ApiError: 403, the key is not for this model.
    """
    if not key.may_use(model):
        raise ApiError(
            403,
            f"the key '{key.name}' may not use '{model}'; GET /v1/models lists those "
            "that it may",
            code="model_not_allowed",
            type="permission_error",
            param="model",
        )


def _exhausted(key: KeySection, budget: str, now: float) -> ApiError:
    renews_at = int(key.renews_at(now))
    renews = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(renews_at))
    return ApiError(
        429,
        f"the key '{key.name}' has spent its budget of {budget} per {key.window}; it "
        f"renews at {renews}",
        code="insufficient_quota",
        type="rate_limit_error",
        retry_after=math.ceil(renews_at - now),
        details={"renews_at": renews_at},
    )
