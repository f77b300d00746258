"""Imports run one way: gateway -> adapters, persistence, engine; adapters -> engine.base."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("gateway", "adapters", "engine", "persistence")

# What a package may import of the house beside itself; a name stands for all below it.
ALLOWED: dict[str, tuple[str, ...]] = {
    "gateway": ("adapters", "engine", "persistence"),
    "adapters": ("engine.base",),
    "engine": (),
    "persistence": (),
}

SOURCES = [path.relative_to(ROOT) for package in HOUSE for path in sorted((ROOT / package).rglob("*.py"))]


def imported(source: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, also inside functions; ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_run_one_way(source: Path) -> None:
    own = source.parts[0]
    for module in imported(source):
        if module.split(".")[0] in {*HOUSE, "tests", "benchmarks"} - {own}:
            assert any(below(module, allowed) for allowed in ALLOWED[own]), module


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_only_one_file_imports_vllm(source: Path) -> None:
    if any(below(module, "vllm") for module in imported(source)):
        assert source == Path("engine/vllm_engine.py")


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_adapters_know_neither_the_web_nor_the_database(source: Path) -> None:
    outside = ("fastapi", "starlette", "uvicorn", "httpx", "sqlalchemy", "asyncpg", "vllm", "torch")
    if source.parts[0] == "adapters":
        assert not [module for module in imported(source) for name in outside if below(module, name)]


@pytest.mark.parametrize(
    "module", ["gateway.cli", "gateway.app", "gateway.server", "engine.simulated", "engine.process_guard"]
)
def test_the_base_install_is_enough_to_import(module: str) -> None:
    """In a fresh interpreter; none of these comes with it."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not {"vllm", "torch", "transformers", "tokenizers"} & set(loaded.stdout.split())


def test_the_command_line_is_quick_because_it_loads_little() -> None:
    code = "import sys, gateway.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not {"fastapi", "sqlalchemy", "pydantic", "uvicorn"} & set(loaded.stdout.split())
