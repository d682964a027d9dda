"""The dialect of a request, also of one that has no route."""

from typing import Final

from aiohttp import web

from neuron.protocol import routes
from services.gateway.dialects.anthropic import Anthropic
from services.gateway.dialects.base import Dialect
from services.gateway.dialects.ollama.dialect import Ollama
from services.gateway.dialects.openai import OpenAI

MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
_OLLAMA: Final = "/api"
_VERSION: Final = "anthropic-version"


def dialect_of(request: web.BaseRequest) -> Dialect:
    """The dialect of the client that sent this."""
    if _is_below(request.path, _OLLAMA):
        return Ollama()
    if _is_below(request.path, MESSAGES) or lists_for_anthropic(request):
        return Anthropic()
    return OpenAI()


def lists_for_anthropic(request: web.BaseRequest) -> bool:
    """Whether this asks for models as Anthropic's clients do."""
    return _is_below(request.path, routes.V1_MODELS) and _VERSION in request.headers


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
