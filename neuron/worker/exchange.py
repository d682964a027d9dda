"""One request and its answer: ids, wording, and the line that says how it ended."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from neuron.protocol import headers, sse
from neuron.protocol.errors import ApiError
from neuron.web import ClientGoneError
from neuron.worker.accounts import Account
from neuron.worker.choices import Choices
from neuron.worker.formats import (
    ChatFormat,
    CompletionFormat,
    Envelope,
    Format,
    worded_prompt,
)
from neuron.worker.preparation import Body, Prepared
from neuron.worker.schema import ChatBody
from neuron.worker.token_words import TokenWords

log = logging.getLogger(__name__)


class Exchange:
    """What is known of one request, from its arrival to its log line."""

    def __init__(self, request: web.Request, body: Body, words: TokenWords) -> None:
        """
        Raises:
            ApiError: 400, its headers are malformed.
        """
        self.request = request
        self.body = body
        self.caller = headers.caller(request.headers)
        self.priority = headers.priority(request.headers)
        self.arrived = time.monotonic()
        chat = isinstance(body, ChatBody)
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        as_ids = body.return_tokens_as_token_ids is True
        self._words = replace(words, as_ids=as_ids)
        self._format = ChatFormat if chat else CompletionFormat
        kind = self._format.CHUNK if body.stream else self._format.WHOLE
        self._envelope = Envelope.new(self.id, body.model, kind)
        self._choices: Choices | None = None
        self._formats: dict[int, Format] = {}
        self._owed: dict[int, dict[str, Any]] = {}
        """What choices have to tell of their prompts in their next chunks."""
        self._ended: set[int] = set()

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Request-Id": self.request.headers.get("X-Request-Id", self.id)}

    def begin(self, choices: Choices) -> None:
        """From here on, these are what is answered with."""
        self._choices = choices

    @property
    def account(self) -> Account:
        """What it has used so far; not before `begin`."""
        assert self._choices is not None
        return Account(self._choices)

    def news(self) -> tuple[bytes, bool]:
        """Events for all that came since the last call, and whether they are the last.

        Usage is always told: else it rides on the last choice, as a chunk without
        choices surprises clients that did not ask for one.
        """
        assert self._choices is not None
        events: list[bytes] = []
        for prepared in self._choices.prepared:
            if prepared.index not in self._ended:
                events += self._news_of(prepared)
        done = len(self._ended) == self.body.total_choices
        if done:
            events.append(sse.DONE)
        return b"".join(events), done

    def _news_of(self, prepared: Prepared) -> Iterator[bytes]:
        assert self._choices is not None
        generation = self._choices.generations.get(prepared.index)
        if generation is None:
            return
        # The first chunk with usage tells what is cached, too.
        if self.body.continuous_usage and not (generation.started or generation.over):
            return
        format_ = self._formats.get(prepared.index)
        if format_ is None:
            format_ = self._formats[prepared.index] = self._new_format(prepared)
            self._owed[prepared.index] = self._of_prompt(prepared)
            opening = format_.opening()
            yield self._chunk([opening]) if opening else sse.comment("started")
        if delta := generation.taken():
            for part in format_.parts(delta):
                yield self._chunk([part])
        if delta.finish_reason is not None:
            self._ended.add(prepared.index)
            yield self._end(format_.end(delta))

    def _of_prompt(self, prepared: Prepared) -> dict[str, Any]:
        """What was asked for of the prompt itself."""
        assert self._choices is not None
        ids = prepared.request.prompt_ids
        told: dict[str, Any] = {}
        if self.body.return_token_ids:
            told["prompt_token_ids"] = ids
        if (top := self.body.prompt_logprobs) is not None:
            scores = self._choices.generations[prepared.index].prompt_scores
            told["prompt_logprobs"] = worded_prompt(ids, scores, top, self._words)
        return told

    def _new_format(self, prepared: Prepared) -> Format:
        return self._format(prepared.index, self._words, self.body.scored)

    def _end(self, choice: dict[str, Any]) -> bytes:
        """A choice's last chunk; that of the last choice has the usage with it."""
        assert self._choices is not None
        if len(self._ended) < self.body.total_choices:
            return self._chunk([choice])
        if self.body.include_usage:
            return self._chunk([choice]) + self._chunk([], **self._told())
        return self._chunk([choice], **self._told())

    def _told(self) -> dict[str, Any]:
        account = self.account
        return {"usage": account.usage(), "timings": account.timings()}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        for choice in choices:
            owed = self._owed.pop(choice["index"], {})
            if self._format.PROMPT_IN_CHOICE:
                choice |= owed
            else:
                more |= owed
        if self.body.include_usage:
            so_far = self.account.usage() if self.body.continuous_usage else None
            more.setdefault("usage", so_far)
        return sse.encode(orjson.dumps(self._envelope.wrap(choices, **more)))

    def whole(self) -> dict[str, Any]:
        """The answer that is not streamed, once all is over."""
        assert self._choices is not None
        choices = []
        for prepared in self._choices.prepared:
            delta = self._choices.generations[prepared.index].taken()
            choice = self._new_format(prepared).whole(delta)
            if self._format.PROMPT_IN_CHOICE:
                choice |= self._of_prompt(prepared)
            choices.append(choice)
        told = self._told()
        if not self._format.PROMPT_IN_CHOICE:
            told |= self._of_prompt(self._choices.prepared[0])
        return self._envelope.wrap(choices, **told)

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """One line at the end, saying how it ended; refusals are the middleware's."""
        try:
            yield
        except (asyncio.CancelledError, ClientGoneError):
            self._log("client_gone")
            raise
        except ApiError as error:
            if self._choices is not None and self._choices.generations:
                self._log(error.code)
            raise
        assert self._choices is not None
        reasons = {str(g.finish_reason) for g in self._choices.generations.values()}
        self._log("+".join(sorted(reasons)))

    def _log(self, outcome: str) -> None:
        if self._choices is None or not self._choices.generations:
            log.info("%s %s: %s before it began", self.request.path, self.id, outcome)
            return
        account = self.account
        log.info(
            "%s %s: %s; prompt %d (cached %d), completion %d tokens (reasoning %d);"
            " choices %d, tool calls %d (unparsed %d);"
            " queue %s s, prefill %s s, decode %s s; total %.3f s",
            self.request.path,
            self.id,
            outcome,
            account.prompt_tokens,
            account.cached_tokens,
            account.completion_tokens,
            account.reasoning_tokens,
            self.body.total_choices,
            account.calls,
            account.unparsed_calls,
            *("-" if s is None else f"{s:.3f}" for s in account.timings().values()),
            time.monotonic() - self.arrived,
        )
