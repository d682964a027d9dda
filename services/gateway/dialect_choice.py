"""The dialect of a request, also of one that has no route."""

from typing import Final

from aiohttp import web

from services.gateway.dialects.base import Dialect
from services.gateway.dialects.openai import OpenAI

_OPENAI: Final = OpenAI()


def dialect_of(request: web.BaseRequest) -> Dialect:
    """The dialect of the client that sent this."""
    return _OPENAI
