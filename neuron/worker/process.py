"""The worker's process: load, listen, beat, serve, stop."""

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from neuron.engines import registry
from neuron.engines.base import Engine, EngineError, LoadCancelledError, LoadSpec
from neuron.engines.seeing import seen
from neuron.ipc import (
    REPORT_FD_ENV,
    Command,
    LoadFailed,
    Ready,
    WorkerSpec,
)
from neuron.models.errors import ModelError
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model
from neuron.protocol.errors import shutting_down, unavailable
from neuron.text.chat import ChatTemplate, TemplateError
from neuron.text.grammar import GrammarCompiler
from neuron.text.output import OutputSyntax, recognise
from neuron.text.tokenizer import TextTokenizer, TokenizerError
from neuron.worker.admission import Admission
from neuron.worker.engine_host import EngineHost
from neuron.worker.images import ImageReader
from neuron.worker.inference import Inference
from neuron.worker.link import Reporter, follow
from neuron.worker.prompts import ServedModel
from neuron.worker.routes import WorkerApi
from neuron.worker.sampling import model_defaults
from neuron.worker.vitals import Tally, Vitals, rss_bytes

log = logging.getLogger(__name__)

_REPLACE_ME: Final = 75
"""Exit code after an engine failure (EX_TEMPFAIL): a new process can do it."""
_CLOSE_DEADLINE_S: Final = 5.0
_MESSAGE_LIMIT: Final = 2000
"""Keeps a report below PIPE_BUF."""


def main() -> int:
    """Run one worker as the daemon says on stdin; exits without further teardown."""
    spec = WorkerSpec.model_validate_json(sys.stdin.readline())
    logging.basicConfig(
        level=spec.log_level, format="%(levelname)s %(name)s: %(message)s"
    )
    reporter = Reporter(int(os.environ.pop(REPORT_FD_ENV)))
    code = asyncio.run(_Worker(spec, reporter).run())
    logging.shutdown()
    sys.stdout.flush()
    # An engine thread that hangs must not hold the exit up.
    os._exit(code)


class _Worker:
    def __init__(self, spec: WorkerSpec, reporter: Reporter) -> None:
        self._spec = spec
        self._reporter = reporter
        self._admission = Admission(
            spec.slots, spec.max_queue, spec.queue_wait_s, spec.max_per_caller
        )
        self._tally = Tally()
        self._stop = asyncio.Event()
        self._closed_by = shutting_down()
        self._exit_code = 0

    async def run(self) -> int:
        """Load, serve until told to stop; returns the exit code."""
        loop = asyncio.get_running_loop()

        def obey(command: Command) -> None:
            loop.call_soon_threadsafe(self._obey, command)

        follow(sys.stdin, obey)
        host = EngineHost(self._on_fatal)
        vitals = Vitals(host, self._admission, self._tally)
        beat = asyncio.create_task(vitals.beat(self._reporter.send))
        try:
            model = await self._load_unless_stopped(host)
            if model is not None:
                await self._serve(model, host)
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await host.close()
        return self._exit_code

    def _obey(self, command: Command) -> None:
        if command.kind == "stop":
            self._stop.set()
            return
        if command.reason == "unloading":
            self._closed_by = unavailable(
                "this model is being unloaded; retry", "model_unloading"
            )
        self._admission.close(self._closed_by)

    def _on_fatal(self, error: EngineError) -> None:
        log.error("%s; this process has to be replaced", error)
        self._exit_code = _REPLACE_ME
        self._stop.set()

    # Load.

    async def _load_unless_stopped(self, host: EngineHost) -> ServedModel | None:
        load = asyncio.create_task(self._load(host))
        stop = asyncio.create_task(self._stop.wait())
        either: set[asyncio.Task[Any]] = {load, stop}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        load.cancel()
        try:
            return await load
        except (asyncio.CancelledError, LoadCancelledError):
            log.info("the load was cancelled")
        except EngineError as error:
            self._load_failed(str(error), error.code, error.param)
        except (ModelError, TokenizerError, TemplateError) as error:
            self._load_failed(str(error), "model_not_supported")
        except Exception as error:
            log.exception("the load failed")
            self._load_failed(f"{type(error).__name__}: {error}", "internal_error")
        return None

    def _load_failed(self, message: str, code: str, param: str | None = None) -> None:
        log.error("%s", message)
        report = LoadFailed(code=code, message=message[:_MESSAGE_LIMIT], param=param)
        self._reporter.send(report)
        self._exit_code = 1

    async def _load(self, host: EngineHost) -> ServedModel:
        spec = self._spec
        tokenizer, template, defaults = await asyncio.to_thread(_load_text, spec.path)
        info = await asyncio.to_thread(inspect_model, spec.path, spec.model)
        draft = await asyncio.to_thread(_draft, spec)
        images = ImageReader.of(seen(info, spec.options), tokenizer)
        grammars = GrammarCompiler(spec.path, info.eos_ids, info.vocab_size)

        def prepare() -> tuple[Engine, LoadSpec]:
            return registry.engine_class(spec.engine)(), _load_spec(spec, info, draft)

        await host.load(prepare, self._reporter.progress)
        # One request can have the whole cache, but not more.
        longest = min(spec.max_seq_len, spec.cache_tokens)
        return ServedModel(
            info,
            tokenizer,
            template,
            await asyncio.to_thread(_recognise, template, tokenizer),
            grammars,
            longest,
            defaults,
            images,
        )

    # Serve.

    async def _serve(self, model: ServedModel, host: EngineHost) -> None:
        inference = Inference(model, host, self._admission, self._tally)
        app = WorkerApi(model, inference).app(self._spec.max_body_bytes)
        # Handlers are cancelled when their client leaves: that is what frees a slot.
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=2
        )
        await runner.setup()
        try:
            await web.UnixSite(runner, str(self._spec.socket), backlog=512).start()
            rss = await asyncio.to_thread(rss_bytes)
            self._reporter.send(Ready(rss_bytes=rss))
            await self._stop.wait()
            self._admission.close(self._closed_by)
            inference.stop(self._closed_by)
        finally:
            await runner.cleanup()
            await inference.text_work.close()


def _load_text(folder: Path) -> tuple[TextTokenizer, ChatTemplate, dict[str, Any]]:
    tokenizer = TextTokenizer.load(folder)
    template = ChatTemplate.load(folder, tokenizer.config, tokenizer.special_tokens)
    return tokenizer, template, model_defaults(folder)


def _recognise(template: ChatTemplate, tokenizer: TextTokenizer) -> OutputSyntax:
    support = template.tool_support(tools=True)
    return recognise(template.source, tokenizer, support)


def _draft(spec: WorkerSpec) -> ModelInfo | None:
    if spec.draft_path is None:
        return None
    return inspect_model(spec.draft_path, spec.options.draft or spec.draft_path.name)


def _load_spec(spec: WorkerSpec, info: ModelInfo, draft: ModelInfo | None) -> LoadSpec:
    return LoadSpec(
        info=info,
        max_seq_len=spec.max_seq_len,
        slots=spec.slots,
        cache_mode=spec.cache_mode,
        cache_tokens=spec.cache_tokens,
        devices=tuple(spec.devices),
        options=spec.options,
        draft=draft,
    )
