"""Signatures of thinking blocks.

A thought that is not shown travels in its signature, so that the model gets it back in
the next turn. Any other signature only fills a field that clients insist on.
"""

import base64
import hashlib
from typing import Final

from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.fields import refused

_SHOWN: Final = "cortex-shown-"
_CARRIED: Final = "cortex-carried-"


def signature(thought: str, *, carried: bool) -> str:
    """Of a thinking block; `carried` where the block does not show the thought."""
    raw = thought.encode()
    if carried:
        return _CARRIED + base64.b64encode(raw).decode()
    return _SHOWN + base64.b64encode(hashlib.sha256(raw).digest()).decode()


def thought_of(block: Fields) -> str:
    """What a thinking block that was sent back says.

    Others' signatures are none of our business: a conversation may change servers.

    Raises:
        ApiError: 400, it is malformed.
    """
    shown, sign = block.need("thinking", str), block.may("signature", str) or ""
    if shown or not sign.startswith(_CARRIED):
        return shown
    try:
        return base64.b64decode(sign.removeprefix(_CARRIED), validate=True).decode()
    except ValueError as error:
        place = block.at("signature")
        raise refused(place, "is not what was sent with this block") from error
