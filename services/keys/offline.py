"""Keys and what they have spent, where no gateway runs that could tell."""

from dataclasses import replace

from neuron.protocol import paths
from services.keys.file import Keys
from services.keys.limits import Limits
from services.keys.store import SPEND_FILE, StoreError, read_spend
from services.keys.views import key_list as listed
from services.schema import KeyList


def key_list(keys: Keys) -> KeyList:
    """As GET /admin/v1/keys would tell them, as far as it can be read."""
    limits = Limits()
    try:
        limits.ledger.restore(read_spend(paths.state_dir() / SPEND_FILE))
    except StoreError as error:
        warning = f"what keys have spent cannot be told: {error}"
        keys = replace(keys, warning=warning)
    return listed(keys, limits, required=bool(keys.entries))
