"""Keys as the admin API and the command line show them."""

import time

from services.keys.file import Keys, KeySection, epoch
from services.keys.limits import Limits
from services.schema import KeyList, KeyView


def key_list(keys: Keys, limits: Limits, *, required: bool) -> KeyList:
    """Every key, in the order of the file."""
    now = time.time()
    return KeyList(
        path=str(keys.path),
        required=required,
        warning=keys.warning,
        keys=[_view(key, limits, now) for key in keys.entries],
    )


def _view(key: KeySection, limits: Limits, now: float) -> KeyView:
    spent = limits.spent(key, now)
    requests, tokens = limits.last_minute(key)
    return KeyView(
        id=key.id,
        name=key.name,
        scope=key.scope,
        models=list(key.models),
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        budget_tokens=key.budget_tokens,
        budget_cost=key.budget_cost,
        window=key.window,
        renews_at=key.renews_at(now),
        priority=key.priority,
        created_at=None if key.created_at is None else epoch(key.created_at),
        revoked=key.revoked,
        last_used=limits.ledger.last_used(key.id),
        requests=spent.requests,
        prompt_tokens=spent.prompt,
        cached_tokens=spent.cached,
        completion_tokens=spent.completion,
        cost=spent.cost,
        last_minute_requests=requests,
        last_minute_tokens=tokens,
    )
