"""The thought that a model writes before its answer, between two markers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class ReasoningSyntax:
    """The markers around a thought."""

    start: str
    end: str
    reason: str = ""
    """Why they are taken for the model's."""
    special_tokens: frozenset[str] = frozenset()
    """All others: a thought never reaches across one, such as the end of a turn."""


MARKERS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""DeepSeek, Qwen and most; Mistral; Cohere; Seed; Sky. The first that fits counts."""


def recognise_reasoning(
    template: str | None, tokenizer: TextTokenizer
) -> ReasoningSyntax | None:
    """The markers that the template writes, else those that are tokens of their own.

    A template that opens the thought may leave the end to the model, and one that
    drops earlier thoughts may know the end alone: one of the two is enough.
    """
    special = {t for t, id_ in tokenizer.added_tokens.items()
               if tokenizer.is_silent(id_)}  # fmt: skip
    for start, end in MARKERS:
        if template is not None and (start in template or end in template):
            reason = f"the chat template writes {start if start in template else end}"
            return ReasoningSyntax(
                start, end, reason, frozenset(special - {start, end})
            )
    for start, end in MARKERS:
        if start in tokenizer.added_tokens and end in tokenizer.added_tokens:
            reason = f"{start} and {end} are tokens"
            return ReasoningSyntax(
                start, end, reason, frozenset(special - {start, end})
            )
    return None


def opens_reasoning(prompt_text: str, syntax: ReasoningSyntax | None) -> bool:
    """Whether the prompt leaves the model inside a thought.

    So it is after a start marker with neither its end nor a turn's end behind it: a
    template opened the thought, or an answer to be continued broke off inside it.
    """
    if syntax is None:
        return False
    _, start, thought = prompt_text.rpartition(syntax.start)
    if not start or syntax.end in thought:
        return False
    return not any(token in thought for token in syntax.special_tokens)


def read_reasoning(
    reader: Reader, syntax: ReasoningSyntax, out: Callable[[str], None], *, inside: bool
) -> Waiting[bool]:
    """Read a thought, if one comes next; without an end, it is all that follows.

    Whitespace right after either marker is layout and dropped.

    Args:
        inside: the prompt opened it already; a model that writes the start marker
            all the same is forgiven.

    Returns:
        Whether there was one.
    """
    opened = yield from reader.skip(syntax.start)
    if not opened and not inside:
        return False
    yield from reader.skip_space()
    yield from reader.text_until((syntax.end,), out)
    yield from reader.skip(syntax.end)
    yield from reader.skip_space()
    return True
