"""Signatures of thinking blocks.

A thought that is not shown travels in its signature, so that the model gets it back in
the next turn. Any other signature only fills a field that clients insist on.
"""

import hashlib
from typing import Final

from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.fields import refused
from services.gateway.dialects.sealing import sealed, unsealed

_SHOWN: Final = "cortex-shown-"


def signature(thought: str, *, carried: bool) -> str:
    """Of a thinking block; `carried` where the block does not show the thought."""
    if carried:
        return sealed(thought)
    return _SHOWN + hashlib.sha256(thought.encode()).hexdigest()


def thought_of(block: Fields) -> str:
    """What a thinking block that was sent back says.

    Others' signatures are none of our business: a conversation may change servers.

    Raises:
        ApiError: 400, it is malformed.
    """
    shown, sign = block.need("thinking", str), block.may("signature", str) or ""
    try:
        return shown or unsealed(sign) or ""
    except ValueError as error:
        place = block.at("signature")
        raise refused(place, "is not what was sent with this block") from error
