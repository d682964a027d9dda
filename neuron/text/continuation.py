"""A prompt that ends inside its last message, for the model to go on with it.

As transformers does it: the last message's text is marked before it is rendered, and
the prompt is cut at the mark.
"""

from collections.abc import Sequence
from typing import Any, Final

from neuron.text.compiled_template import TemplateError
from neuron.text.conversation import Message

_MARK: Final = "CONTINUE_FINAL_MESSAGE_TAG "


class ContinuationError(TemplateError):
    """The last message cannot be continued."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="continue_final_message")


def marked(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The messages with the end of the last one marked, and its own text.

    Raises:
        ContinuationError: it has no text.
    """
    *before, last = messages
    content = last.get("content")
    if isinstance(content, str):
        return [*before, {**last, "content": content + _MARK}], content
    parts: list[Any] = list(content or ())
    for index in range(len(parts) - 1, -1, -1):
        if "text" in parts[index]:
            text = parts[index]["text"]
            parts[index] = {**parts[index], "text": text + _MARK}
            return [*before, {**last, "content": parts}], text
    raise ContinuationError("the final message has no content to continue")


def cut(rendered: str, text: str) -> str:
    """The prompt up to where `text`, the last message's, ends.

    Raises:
        ContinuationError: the template does not show it as it is.
    """
    mark = _MARK.strip()
    if text.strip() not in rendered or mark not in rendered:
        raise ContinuationError(
            "the final message cannot be continued: the chat template does not keep"
            " its content as it is"
        )
    end = rendered.rindex(mark)
    if rendered.startswith(_MARK, end):
        return rendered[:end]
    # The template trims the content, and so the text to continue.
    return rendered[:end].rstrip()
