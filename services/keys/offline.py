"""Keys and what they have spent, where no gateway runs that could tell."""

from neuron.protocol import paths
from neuron.protocol.config_file import ConfigError
from services.keys.file import Keys
from services.keys.limits import Limits
from services.keys.store import SPEND_FILE, StoreError, read_spend
from services.keys.views import key_list as listed
from services.schema import KeyList


def key_list(keys: Keys) -> KeyList:
    """As GET /admin/v1/keys would tell them.

    Raises:
        ConfigError: what was spent cannot be read.
    """
    limits = Limits()
    try:
        limits.ledger.restore(read_spend(paths.state_dir() / SPEND_FILE))
    except StoreError as error:
        raise ConfigError(str(error)) from error
    return listed(keys, limits, required=bool(keys.entries))
