"""Paths of the neuron API, with its default port."""

from typing import Final
from urllib.parse import quote

DEFAULT_PORT: Final = 13131

DISCOVERY: Final = "/discovery"
HEALTH: Final = "/health"
VERSION: Final = "/version"
MODELS: Final = "/models"
MODELS_LOAD: Final = "/models/load"
MODELS_PLAN: Final = "/models/plan"
MODELS_UNLOAD: Final = "/models/unload"
MODEL_ENDPOINT: Final = "/models/{id}/endpoint"
EVENTS: Final = "/events"
METRICS: Final = "/metrics"
OPENAPI: Final = "/openapi.json"

V1_MODELS: Final = "/v1/models"
V1_CHAT_COMPLETIONS: Final = "/v1/chat/completions"
V1_COMPLETIONS: Final = "/v1/completions"
V1_TOKENIZE: Final = "/v1/tokenize"
V1_DETOKENIZE: Final = "/v1/detokenize"

INFERENCE: Final = (V1_CHAT_COMPLETIONS, V1_COMPLETIONS, V1_TOKENIZE, V1_DETOKENIZE)
"""POST routes whose body names a `model`; the daemon relays them to its worker."""


def model_endpoint(model_id: str) -> str:
    """Path of one model's endpoint; `/` inside the id is percent-encoded."""
    return MODEL_ENDPOINT.format(id=quote(model_id, safe=""))
