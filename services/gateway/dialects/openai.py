"""OpenAI's own: the internal form, and its envelope for errors."""

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json


class OpenAI:
    stream_type = sse.CONTENT_TYPE

    def status(self, error: ApiError) -> int:
        return error.status

    def error(self, error: ApiError, request_id: str) -> Json:
        return error.envelope()

    def headers(self, request_id: str) -> dict[str, str]:
        return {}
