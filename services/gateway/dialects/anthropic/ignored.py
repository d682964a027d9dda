"""What has no effect here: told where it may matter, refused where it must."""

from typing import Final

from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.fields import no_effect, unsupported

_HONOURED: Final = frozenset({
    "model", "messages", "system", "max_tokens", "stream", "temperature", "top_p",
    "top_k", "stop_sequences", "tools", "tool_choice", "thinking", "output_config",
    "output_format", "metadata",
})  # fmt: skip
_NOTHING_LOST: Final = frozenset({
    "cache_control", "betas", "anthropic_beta", "anthropic_version", "service_tier",
    "inference_geo", "diagnostics", "billing_policy", "user_profile_id", "workspace_id",
})  # fmt: skip
"""About Anthropic's own accounts and caches: the answer is the same without."""
_FOREIGN: Final = {
    "mcp_servers": "tools are run by the client here; give them as tools",
    "container": "no code is executed here",
    "thread": "conversations are not kept here; send all messages",
    "compaction": "conversations are not summarized here",
}
"""Without these, the answer would be to another question."""
_TOOL_EXTRAS: Final = ("defer_loading", "input_examples")


def refuse_foreign(body: Fields) -> None:
    """
    Raises:
        ApiError: 400, what Anthropic's servers would do is not done here.
    """
    for name, instead in _FOREIGN.items():
        if body.values.get(name):
            raise unsupported(name, f"is not supported here: {instead}")


def ignored(body: Fields) -> list[str]:
    """What of a request that has been translated has no effect, in a few words each."""
    sent = {name for name, value in body.values.items() if value is not None}
    names = sorted(sent - _HONOURED - _NOTHING_LOST - _FOREIGN.keys())
    if (config := body.inner("output_config")) and config.values.get("task_budget"):
        names.append("output_config.task_budget")
    for tool in body.each("tools"):
        names += [tool.at(extra) for extra in _TOOL_EXTRAS if tool.values.get(extra)]
    for message in body.each("messages"):
        names += _ignored_in(message)
    return [*map(no_effect, names)]


def _ignored_in(message: Fields) -> list[str]:
    names = [message.at("output_config")] if message.values.get("output_config") else []
    if isinstance(message.values.get("content"), list):
        for block in message.each("content"):
            cited = block.values.get("citations")
            if isinstance(cited, dict) and cited.get("enabled"):
                names.append(block.at("citations"))
            if block.kind == "redacted_thinking":
                names.append(block.at("data"))
    return names
