"""A thought as a token that carries it to its client and back, without a store.

It hides nothing, and only looks opaque.
"""

import base64
from typing import Final

_MARK: Final = "cortex1:"


def sealed(thought: str) -> str:
    return _MARK + base64.b64encode(thought.encode()).decode()


def unsealed(token: str) -> str | None:
    """The thought in a token; None where that is anybody else's.

    Raises:
        ValueError: it was made here, and is damaged.
    """
    if not token.startswith(_MARK):
        return None
    return base64.b64decode(token.removeprefix(_MARK), validate=True).decode()
