"""What Ollama's clients expect of every answer."""

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json


class Ollama:
    stream_type = "application/x-ndjson"

    def status(self, error: ApiError) -> int:
        return error.status

    def error(self, error: ApiError, request_id: str) -> Json:
        return {"error": error.message}

    def headers(self, request_id: str) -> dict[str, str]:
        return {}
