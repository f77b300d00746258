"""The gateway's parts from their start to their end.

Order of the start: prompt templates, guard list, database, schema, demo model, engine, self-check. Order
of the end: requests drained, rows flushed, engine, database; then no process of ours is left. A start that
fails or is interrupted ends what it had started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from fastapi import Request

from adapters.chat_format import ChatFormat, Conversation
from adapters.guard import Guard
from adapters.prompt_templates import PromptTemplates
from engine import chatglm3_model, demo_model
from engine.base import ChatMessage, Engine, EngineDead, EngineError, GenerationRequest, Sampling
from engine.ladder import Ladder
from engine.rebuilt import Pauses, RebuiltEngine
from gateway import metrics
from gateway.access.accounts import Accounts
from gateway.access.api_keys import ApiKeys
from gateway.access.sessions import Sessions
from gateway.admission.fair_queue import admission_of
from gateway.fallbacks import rungs
from gateway.generations import Generations
from gateway.guard_file import read_guard
from gateway.limits.chosen import new_limiter
from gateway.processes import EngineProcesses, adopt_orphans, end_descendants
from gateway.progress import Step
from gateway.prompt_templates import read_templates
from gateway.settings import DEMO, Settings
from gateway.tracing import tracing_of
from persistence.backlog import Backlog
from persistence.content_policy import ContentPolicy
from persistence.database import Database
from persistence.housekeeping import Housekeeping
from persistence.recorder import Recorder

log = logging.getLogger("gateway.lifecycle")

FLUSH_SECONDS = 30.0


class StartFailed(Exception):
    """The gateway can't start; the message is one line for the operator."""


class StartInterrupted(Exception):
    """Someone asked the gateway to end while it was starting."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests are taken, and what is wrong, also where they are all the same."""

    ready: bool
    problems: list[str]


class Lifecycle:
    """Owns the database, what lives on it, and the engine. ``start`` once, ``stop`` always."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, settings.data_dir, settings.database_pool_size)
        self.recorder = Recorder(
            self.database,
            Backlog(settings.data_dir / "journal", settings.journal_max_bytes),
            settings.durability,
            settings.database_timeout_seconds,
            ContentPolicy(settings.store_content, settings.content_max_characters),
            metrics.count_closed_as_lost,
        )
        self.housekeeping = Housekeeping(
            self.database,
            settings.retain_content_days,
            settings.retain_rows_days,
            metrics.count_closed_as_lost,
        )
        seconds = settings.database_timeout_seconds
        self.accounts = Accounts(self.database, seconds)
        self.sessions = Sessions(self.database, settings.session_days, seconds, self._database_is_away)
        self.api_keys = ApiKeys(self.database, seconds, self._database_is_away)
        self.limiter = new_limiter(settings, self.database)
        self.tracing = tracing_of(settings)
        self._engine: Ladder | None = None
        self._chat_format: ChatFormat | None = None
        self._prompt_templates: PromptTemplates | None = None
        self.guard: Guard | None = None
        self._generations: Generations | None = None
        self._engine_processes = EngineProcesses()
        self._interrupted = asyncio.Event()
        self._pulse = metrics.Pulse()

    @property
    def engine(self) -> Ladder:
        """The engine, and who answers in its place; valid after ``start``."""
        assert self._engine is not None
        return self._engine

    @property
    def chat_format(self) -> ChatFormat:
        """How the engine's model is spoken to; valid after ``start``."""
        assert self._chat_format is not None
        return self._chat_format

    @property
    def prompt_templates(self) -> PromptTemplates:
        """What a request may name as its template; valid after ``start``."""
        assert self._prompt_templates is not None
        return self._prompt_templates

    @property
    def generations(self) -> Generations:
        """The path of every request; valid after ``start``."""
        assert self._generations is not None
        return self._generations

    async def start(self) -> None:
        """Raises StartFailed or StartInterrupted; call ``stop`` all the same."""
        settings = self.settings
        try:
            self._prompt_templates = await asyncio.to_thread(read_templates, settings.prompt_templates)
            self.guard = await asyncio.to_thread(read_guard, settings.guard)
            await self._start_database()
            adopt_orphans()
            model = await self._model_folder()
            main = await self._main_engine(model)
            self._engine = Ladder(main, rungs(settings), settings.fallback_on_overload)
            async with Step(f"Starting the engine ({settings.engine}, {model.name})"):
                await self._interruptible(self._engine.start())
            self._chat_format = chat_format_of(self._engine, settings.tool_call_parser)
            if settings.proves_itself:
                async with Step("Asking the model a question with a known answer"):
                    await self_check(main, self._chat_format)
            await asyncio.to_thread(self._engine_processes.note)
        except (StartFailed, StartInterrupted):
            raise
        except Exception as error:
            log.debug("the start failed", exc_info=True)
            raise StartFailed(str(error) or type(error).__name__) from error
        if self._interrupted.is_set():
            # In a step that is too short to be interrupted.
            raise StartInterrupted
        self._generations = Generations(
            self._engine,
            self.recorder,
            settings.commit_wait_seconds,
            limiter=self.limiter,
            admission=admission_of(settings, self._engine.card.max_running),
            overflow=self._engine.overflow,
        )
        metrics.watch_rows(self.recorder)
        metrics.watch_limits(self.limiter)
        metrics.watch_engine(self._engine, main)
        self._pulse.start(settings.engine, self._engine.card.name)

    async def _start_database(self) -> None:
        where = "the given server" if self.settings.database_url else "embedded"
        async with Step(f"Starting the database (PostgreSQL, {where})"):
            await self._interruptible(self.database.connect())
            await self._interruptible(self.database.check_schema())
            await self.recorder.start()
            await self.limiter.start()
            self.housekeeping.start()

    def _database_is_away(self) -> bool:
        return self.recorder.away is not None

    async def _model_folder(self) -> Path:
        if self.settings.engine != "vllm":
            return Path(self.settings.engine)
        if self.settings.model != DEMO:
            return await asyncio.to_thread(Path(self.settings.model).resolve)
        if not demo_model.is_there(self.settings.data_dir):
            async with Step("Converting the demo model (once)"):
                # In a process of its own: it can be interrupted, and gives its memory back.
                await self._interruptible(convert_demo_model(self.settings.data_dir))
        return demo_model.folder(self.settings.data_dir)

    async def _main_engine(self, model: Path) -> Engine:
        """The engine that the settings name, not started; one with processes of its own comes back from
        their death. Raises EngineError."""
        settings, new = self.settings, partial(new_engine, self.settings, model)
        if settings.engine != "vllm":
            return await asyncio.to_thread(new)
        return RebuiltEngine(
            new,
            self._engine_processes.end,
            Pauses(settings.engine_restart_seconds, settings.engine_restart_longest_seconds),
            prove=self._prove,
            restarts=settings.engine_restart,
            attempted=metrics.count_restart,
        )

    async def _prove(self, engine: Engine) -> None:
        """A new engine has come up. Raises EngineError where the demo model answers wrongly."""
        if self.settings.proves_itself:
            await self_check(engine, self.chat_format)
        await asyncio.to_thread(self._engine_processes.note)

    async def _interruptible(self, step: Coroutine[Any, Any, None]) -> None:
        """Run a step of the start to its end, or until ``interrupt``; then what it started is ended
        below it, which makes it fail, and its failure is waited for."""
        task = asyncio.create_task(step)
        interrupted = asyncio.create_task(self._interrupted.wait())
        await asyncio.wait({task, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not interrupted.done():
            interrupted.cancel()
            return task.result()
        while not task.done():
            await asyncio.to_thread(end_descendants)
            await asyncio.wait({task}, timeout=0.2)
        with contextlib.suppress(Exception):
            task.result()
        raise StartInterrupted

    def interrupt(self) -> None:
        """Make a running ``start`` raise StartInterrupted soon."""
        self._interrupted.set()

    async def give_notice(self) -> None:
        """Say that the end is near, where it is asked for, before anyone is refused."""
        if self._generations is not None and self.settings.drain_notice_seconds:
            await self._generations.give_notice(self.settings.drain_notice_seconds)

    async def drain(self) -> None:
        """Admit nothing more; return when all running requests have ended or were ended."""
        if self._generations is not None:
            await self._generations.drain(self.settings.drain_seconds)

    async def stop(self) -> None:
        """End everything that was started, in reverse order, also where one part fails to end; safe at any
        time after ``start`` returned."""
        async with contextlib.AsyncExitStack() as last_first:
            last_first.push_async_callback(asyncio.to_thread, end_descendants)
            last_first.push_async_callback(self.database.close)
            last_first.push_async_callback(self._pulse.stop)
            last_first.callback(self.accounts.close)
            last_first.callback(self.api_keys.close)
            if self._engine is not None:
                last_first.push_async_callback(self._engine.shutdown)
            if self.tracing is not None:
                last_first.push_async_callback(self.tracing.close)
            last_first.push_async_callback(self.recorder.stop, FLUSH_SECONDS)
            last_first.push_async_callback(self.limiter.stop)
            last_first.push_async_callback(self.housekeeping.stop)
            await self.drain()

    async def health(self) -> Health:
        """Whether requests may come now, and what is wrong: with a dead engine they may, as long as a
        fallback answers."""
        refusing, problems = [], await self.engine.problems()
        if self.generations.leaving:
            refusing.append("The gateway is shutting down.")
        try:
            await self.engine.check()
        except EngineDead:
            refusing, problems = refusing + problems, []
        if self.recorder.refusing is not None:
            refusing.append(self.recorder.refusing)
        return Health(not refusing, refusing + problems + self.recorder.problems)


def lifecycle_of(request: Request) -> Lifecycle:
    """The running gateway behind a request."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def new_engine(settings: Settings, model: Path) -> Engine:
    """The engine that the settings name, not started."""
    if settings.engine == "simulated":
        from engine.simulated import SimulatedEngine

        return SimulatedEngine(settings.simulated_ttft_ms, settings.simulated_tokens_per_second)
    name, arguments = settings.served_model_name, settings.engine_args
    defaults = cast("dict[str, float]", settings.sampling_defaults)
    if settings.engine == "upstream":
        from engine.upstream import UpstreamEngine

        upstream = replace(settings.main_upstream.upstream, sampling_defaults=defaults)
        engine = UpstreamEngine(upstream, served_name=name, asks_models=True)
        metrics.watch_upstream(upstream.name, engine.breaker)
        return engine
    from engine.vllm_engine import VllmEngine

    if not chatglm3_model.is_chatglm(model):
        return VllmEngine(model, name or model.name, arguments, sampling_defaults=defaults)
    if arguments.get("trust_remote_code"):
        raise EngineError(
            "engine_args: trust_remote_code is refused for ChatGLM3, which needs no remote code."
        )
    tokenizer = chatglm3_model.ensure_tokenizer(model, settings.data_dir)
    return VllmEngine(
        model,
        name or chatglm3_model.NAME,
        {"tokenizer": str(tokenizer)} | arguments,
        chat_format="chatglm3",
        sampling_defaults=chatglm3_model.SAMPLING_DEFAULTS | defaults,
    )


def chat_format_of(engine: Engine, tool_call_parser: str | None = None) -> ChatFormat:
    """How the engine's model is spoken to. Raises EngineError where nothing is known by the name
    ``tool_call_parser``."""
    if tool_call_parser is not None and engine.card.chat_format != "chat_template":
        raise EngineError("tool_call_parser: this model needs none, the gateway knows how it is spoken to.")
    if engine.card.chat_format == "code_points":
        from adapters.code_points import CodePointFormat

        return CodePointFormat()
    if engine.card.chat_format == "messages":
        from adapters.messages_format import MessagesFormat

        return MessagesFormat()
    assert engine.tokenizer is not None
    if engine.card.chat_format == "chatglm3":
        from adapters.chatglm3.chat_format import ChatGLM3Format

        return ChatGLM3Format(engine.tokenizer)
    from adapters.chat_template import ChatTemplateFormat
    from adapters.tool_calls.families import FAMILIES

    if tool_call_parser is None or tool_call_parser in FAMILIES:
        return ChatTemplateFormat(engine.tokenizer, call_family=tool_call_parser)
    return ChatTemplateFormat(engine.tokenizer, tool_parser=engine.tool_parser(tool_call_parser))


async def convert_demo_model(data_dir: Path) -> None:
    """Run ``python -m engine.demo_model``. Raises EngineError with its last line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine.demo_model", str(data_dir), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise EngineError(f"The demo model could not be converted: {lines[-1]}")


async def self_check(engine: Engine, chat_format: ChatFormat) -> None:
    """Ask the demo model one question. Raises EngineError when the answer is wrong: a build of the
    engine that computes wrong text must not serve it."""
    messages = (ChatMessage("user", demo_model.SELF_CHECK_QUESTION),)
    prompt = chat_format.render(Conversation(messages))
    sampling = Sampling(max_tokens=24, temperature=0.0, stop_token_ids=prompt.stop_token_ids)
    request = GenerationRequest("self-check", prompt.token_ids, messages, sampling, stream=False)
    stream = await engine.submit(request)
    delta = await stream.next()
    answer = delta.text
    while delta.finish_reason is None:
        delta = await stream.next()
        answer += delta.text
    if demo_model.SELF_CHECK_ANSWER not in answer:
        raise EngineError(
            f"The self-check failed: asked {demo_model.SELF_CHECK_QUESTION!r}, the model answered "
            f"{answer!r}. This build of the engine computes wrong text here and is not served."
        )
