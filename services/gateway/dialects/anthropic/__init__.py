"""Anthropic's Messages API."""

from services.gateway.dialects.anthropic.errors import Anthropic
from services.gateway.dialects.anthropic.models import model_entry, models_page
from services.gateway.dialects.anthropic.request import (
    translate_count,
    translate_messages,
)

__all__ = [
    "Anthropic",
    "model_entry",
    "models_page",
    "translate_count",
    "translate_messages",
]
