from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from adapters.code_points import CodePointFormat
from engine.base import EngineError, GenerationRequest
from engine.simulated import SimulatedEngine, SimulatedStream
from gateway.lifecycle import Lifecycle, StartFailed, StartInterrupted, self_check
from gateway.settings import load


class Knowing(SimulatedEngine):
    """Knows the one answer."""

    async def submit(self, request: GenerationRequest) -> SimulatedStream:
        answer = replace(request.messages[-1], content="It is Paris.")
        return await super().submit(replace(request, messages=(answer,)))


async def test_a_model_that_answers_the_known_question_is_served() -> None:
    await self_check(Knowing(), CodePointFormat())


async def test_a_model_that_answers_nonsense_is_refused_and_its_answer_shown() -> None:
    with pytest.raises(EngineError, match="self-check failed") as refused:
        await self_check(SimulatedEngine(), CodePointFormat())
    assert "What is the capital of F" in str(refused.value)


@pytest.fixture
def simulated() -> Iterator[tuple[Lifecycle, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield Lifecycle(load({"engine": "simulated", "data_dir": folder})), folder
    shutil.rmtree(folder, ignore_errors=True)


def database_of(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]))


async def test_prompt_templates_that_have_gone_since_the_settings_were_read_end_the_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("llm_chat: {}")
    lifecycle = Lifecycle(load({"engine": "simulated", "data_dir": tmp_path, "prompt_templates": path}))
    path.unlink()
    with pytest.raises(StartFailed, match=r"own\.yaml: there is no such file"):
        await lifecycle.start()
    await lifecycle.stop()
    assert list(tmp_path.iterdir()) == []


async def test_an_interrupt_between_two_steps_of_the_start_is_not_lost(
    simulated: tuple[Lifecycle, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle, folder = simulated

    def interrupting(*given: object) -> CodePointFormat:
        lifecycle.interrupt()
        return CodePointFormat()

    monkeypatch.setattr("gateway.lifecycle.chat_format_of", interrupting)
    with pytest.raises(StartInterrupted):
        await lifecycle.start()
    database = database_of(folder)
    await lifecycle.stop()
    assert not database.is_running() or database.status() == psutil.STATUS_ZOMBIE


async def test_a_part_that_fails_to_end_leaves_no_other_running(
    simulated: tuple[Lifecycle, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle, folder = simulated
    await lifecycle.start()
    assert lifecycle.prompt_templates.names("llm_chat")[0] == "default"
    database = database_of(folder)

    async def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lifecycle.engine, "shutdown", failing)
    with pytest.raises(ZeroDivisionError):
        await lifecycle.stop()
    assert not database.is_running() or database.status() == psutil.STATUS_ZOMBIE
