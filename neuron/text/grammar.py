"""Grammars that an output must follow: JSON, JSON Schema, regular expressions, Lark.

llguidance is imported with the first grammar and not before: a worker that serves none
pays nothing for it.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenizers import Tokenizer

from neuron.text.grammar_spec import GrammarError, GrammarSpec, json_rule
from neuron.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from neuron.text.grammar_match import GrammarConstraint

__all__ = ["GrammarCompiler", "GrammarError", "GrammarSpec", "json_rule"]

CACHED: Final = 32
"""Compiled grammars kept; a client sends the same schema with every request."""
THREADS: Final = 4
TIMEOUT: Final = 10.0
"""Seconds that compiling may take, waiting for a thread included."""
_STACK: Final = 256 << 20
_STATES: Final = 20_000
"""Of one grammar's lexer, at one to two kilobytes each."""
_FUEL: Final = 100_000
"""Of one grammar's lexer at its beginning, which is in a step of the engine: with the
library's own million, nested repetitions stop all outputs for seconds."""


class GrammarCompiler:
    """Compiles grammars for one model; safe to share between threads."""

    def __init__(self, folder: Path, eos_ids: Collection[int], vocab_size: int) -> None:
        """
        Args:
            folder: holds the model's `tokenizer.json`.
            eos_ids: tokens that end an output.
            vocab_size: of the model, which may be larger than the tokenizer's.
        """
        self._file = folder / "tokenizer.json"
        self._eos_ids = sorted(eos_ids)
        self._vocab_size = vocab_size
        self._compiled: OrderedDict[str, GrammarConstraint] = OrderedDict()
        self._lock = threading.Lock()
        self._made_tokenizer: LLTokenizer | None = None
        self._making_tokenizer = threading.Lock()
        self._read_vocabulary: Vocabulary | None = None
        self._started_threads: ThreadPoolExecutor | None = None

    async def constraint(self, spec: GrammarSpec) -> "GrammarConstraint":
        """As `compile`, in a thread.

        Raises:
            GrammarError: also where it takes longer than `TIMEOUT`.
        """
        if (known := self._known(spec.key())) is not None:
            return known
        compiling = self._threads.submit(self._compile, spec)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await asyncio.wrap_future(compiling)
        except TimeoutError as error:
            raise GrammarError(
                "", f"it cannot be compiled within {TIMEOUT:g} s"
            ) from error

    def compile(self, spec: GrammarSpec) -> "GrammarConstraint":
        """A constraint for one output, at its beginning.

        Raises:
            GrammarError: the grammar is malformed, not supported, matches nothing or
                is too large, or the model's tokenizer does not allow for any.
        """
        if (known := self._known(spec.key())) is not None:
            return known
        return self._threads.submit(self._compile, spec).result()

    async def vocabulary(self, silent: Callable[[int], bool]) -> Vocabulary:
        """What the model's tokens spell, as grammars see it; read in a thread, once.

        Args:
            silent: tells the tokens that have no text.

        Raises:
            GrammarError: the model's tokenizer does not allow for it.
        """
        if self._read_vocabulary is None:
            reading = self._threads.submit(self._vocabulary, silent)
            self._read_vocabulary = await asyncio.wrap_future(reading)
        return self._read_vocabulary

    def close(self) -> None:
        """Let the threads end; what they are compiling nobody gets."""
        with self._lock:
            if self._started_threads is not None:
                self._started_threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._started_threads is None:
                self._started_threads = _threads()
            return self._started_threads

    def _known(self, key: str) -> "GrammarConstraint | None":
        with self._lock:
            if key not in self._compiled:
                return None
            self._compiled.move_to_end(key)
            return self._compiled[key].fork()

    def _compile_anew(self, key: str, source: str) -> "LLMatcher":
        """For an output that the kept one has failed; nobody else is to get that."""
        with self._lock:
            self._compiled.pop(key, None)
        return self._threads.submit(self._matcher, source).result()

    # In one of the threads.

    def _vocabulary(self, silent: Callable[[int], bool]) -> Vocabulary:
        tokenizer = self._tokenizer
        ids = range(tokenizer.vocab_size)
        spoken = [i for i in ids if not silent(i) and not tokenizer.is_special_token(i)]
        return Vocabulary({i: tokenizer.decode_bytes([i]) for i in spoken})

    def _compile(self, spec: GrammarSpec) -> "GrammarConstraint":
        key = spec.key()
        if (known := self._known(key)) is not None:
            return known
        compiled = self._compiled_now(spec, key)
        with self._lock:
            self._compiled[key] = compiled
            while len(self._compiled) > CACHED:
                self._compiled.popitem(last=False)
            return compiled.fork()

    def _compiled_now(self, spec: GrammarSpec, key: str) -> "GrammarConstraint":
        from neuron.text.grammar_match import ConstraintError, GrammarConstraint
        from neuron.text.grammar_source import explained, source_of

        for name, schema in spec.parts:
            try:
                self._compiled_now(GrammarSpec("json_schema", schema), "")
            except GrammarError as error:
                raise GrammarError(error.place, error.message, name) from error
        source = source_of(spec, self._tokenizer)
        matcher = self._matcher(source)
        if matcher.is_error():
            raise explained(spec, matcher.get_error(), self._verdict)
        warnings = matcher.get_grammar_warnings()
        if warnings and not spec.lenient:
            raise GrammarError("", "; ".join(warnings))
        vocab = self._tokenizer.vocab_size
        ends = frozenset(self._tokenizer.eos_tokens)
        trial = partial(self._matcher, source)
        try:
            # Only now does a grammar show that no text at all follows it.
            GrammarConstraint(matcher.deep_copy(), trial, vocab, ends).mask()
        except ConstraintError as error:
            raise GrammarError("", "there is no text that satisfies it") from error
        anew = partial(self._compile_anew, key, source)
        return GrammarConstraint(matcher, anew, vocab, ends)

    def _verdict(self, source: str) -> str:
        return self._matcher(source).get_error()

    def _matcher(self, source: str) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            initial_lexer_fuel=_FUEL, max_lexer_states=_STATES, verbose_errors=False
        )
        return LLMatcher(self._tokenizer, source, log_level=0, limits=limits)

    @property
    def _tokenizer(self) -> "LLTokenizer":
        with self._making_tokenizer:
            if self._made_tokenizer is None:
                self._made_tokenizer = self._make_tokenizer()
            return self._made_tokenizer

    def _make_tokenizer(self) -> "LLTokenizer":
        """The vocabulary as bytes, in a trie: takes up to a second."""
        from llguidance import LLTokenizer

        try:
            text = self._file.read_text(encoding="utf-8")
            known = Tokenizer.from_str(text).get_vocab_size(with_added_tokens=True)
            eos_ids = [token for token in self._eos_ids if token < known]
            vocab = max(known, self._vocab_size)
            return LLTokenizer(text, n_vocab=vocab, eos_token=eos_ids)
        except Exception as error:  # Both libraries raise bare ones.
            raise GrammarError(
                "", f"this model's tokenizer does not allow for grammars: {error}"
            ) from error


def _threads() -> ThreadPoolExecutor:
    """With stacks as deep as a grammar of the longest kind is nested.

    The compiler follows references by recursion; on a usual stack a chain of a thousand
    ends the process. What is not touched takes no memory.
    """
    before = threading.stack_size(_STACK)
    try:
        threads = ThreadPoolExecutor(THREADS, "grammar")
        # Each waits for the others, so that all of them begin now.
        barrier = threading.Barrier(THREADS)
        for _ in range(THREADS):
            threads.submit(barrier.wait)
    finally:
        threading.stack_size(before)
    return threads
