"""Which format of tool calls a model writes."""

from collections.abc import Mapping
from typing import Final

from neuron.text.template_traits import ToolSupport
from neuron.text.tools.cohere import Cohere
from neuron.text.tools.deepseek import DeepSeekV3, DeepSeekV31
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.generic import Generic
from neuron.text.tools.glm import Glm
from neuron.text.tools.hermes import Hermes
from neuron.text.tools.internlm import InternLM
from neuron.text.tools.json_function import JsonFunction
from neuron.text.tools.llama import LlamaJson, Pythonic
from neuron.text.tools.mistral import Mistral
from neuron.text.tools.phi import Phi
from neuron.text.tools.qwen_xml import QwenXml
from neuron.text.tools.tagged_list import Apriel, Nemotron
from neuron.text.tools.told import Told

FORMATS: Final[tuple[ToolFormat, ...]] = (
    DeepSeekV3(), DeepSeekV31(), Mistral(), Cohere(), QwenXml(), JsonFunction(),
    Nemotron(), Apriel(), InternLM(), Hermes(), Phi(), Glm(), Pythonic(), LlamaJson(),
    Generic(),
)  # fmt: skip
"""The first that fits counts: what is particular to one comes before what several
share, such as the word `parameters`."""


def recognise_tools(
    template: str | None,
    tokens: Mapping[str, int],
    support: ToolSupport = ToolSupport(),  # noqa: B008 - it cannot change
) -> tuple[ToolFormat, str]:
    """The format that the template writes, else that of the vocabulary's tokens.

    Where the template shows less of tools than there is, plain JSON is read as well.

    Returns:
        It and the reason for taking it.
    """
    format_, reason = _trained(template, tokens)
    described = support.declarations == "none"
    if (described or not support.history) and not format_.bare:
        format_ = Told(format_, tools=described)
    return format_, reason


def _trained(template: str | None, tokens: Mapping[str, int]) -> tuple[ToolFormat, str]:
    for format_ in FORMATS:
        if template and (evidence := format_.in_template(template)):
            return format_, f"the chat template has {evidence}"
    for format_ in FORMATS:
        if evidence := format_.in_vocabulary(tokens):
            return format_, f"the vocabulary has {evidence}"
    return FORMATS[-1], "neither the chat template nor the vocabulary names a format"
