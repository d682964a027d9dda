"""What Ollama's clients expect of every answer."""

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json

_OUR_NAMES = {"response_format.json_schema.schema": "format"}
"""Places in the internal form whose names no client of Ollama's has seen."""


class Ollama:
    stream_type = "application/x-ndjson"

    def status(self, error: ApiError) -> int:
        return error.status

    def error(self, error: ApiError, request_id: str) -> Json:
        message = error.message
        for ours, theirs in _OUR_NAMES.items():
            message = message.replace(ours, theirs)
        return {"error": message}

    def headers(self, request_id: str) -> dict[str, str]:
        return {}
