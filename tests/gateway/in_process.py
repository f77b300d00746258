"""A gateway without a process, a socket or a database: its routes, the simulated engine, rows in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from engine.base import Engine
from engine.ladder import Ladder
from engine.simulated import SimulatedEngine
from gateway.app import create_app
from gateway.generations import Generations
from gateway.guard_file import read_guard
from gateway.lifecycle import Lifecycle, chat_format_of
from gateway.prompt_templates import read_templates
from gateway.settings import load
from persistence.message_row import MessageRow
from tests.gateway.fakes import MemoryRecorder


@dataclass
class InProcess:
    """Asked over ``client``; ``rows`` are those that were closed."""

    client: httpx.AsyncClient
    recorder: MemoryRecorder
    lifecycle: Lifecycle

    @property
    def rows(self) -> list[MessageRow]:
        return self.recorder.closed


def in_process(data_dir: Path, engine: Engine | None = None, **settings: Any) -> InProcess:
    """A gateway with these settings."""
    chosen = load({"engine": "simulated", "data_dir": data_dir, "access_log": False} | settings)
    lifecycle, recorder = Lifecycle(chosen), MemoryRecorder([])
    lifecycle._engine = Ladder(engine or SimulatedEngine(), ())
    lifecycle._chat_format = chat_format_of(lifecycle._engine)
    lifecycle._prompt_templates = read_templates(None)
    lifecycle.guard = read_guard(chosen.guard)
    lifecycle._generations = Generations(lifecycle._engine, recorder, commit_wait_seconds=5)
    transport = httpx.ASGITransport(create_app(chosen, lifecycle), raise_app_exceptions=False)
    return InProcess(httpx.AsyncClient(transport=transport, base_url="http://gateway"), recorder, lifecycle)
