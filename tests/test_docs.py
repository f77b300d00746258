"""docs/openai.md is true: it has every field, and the tests that it names are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.refused import IGNORED, REFUSED

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "openai.md").read_text()

CHAT, COMPLETION = ChatCompletionRequest.model_fields, CompletionRequest.model_fields


def rows(heading: str) -> Iterator[tuple[list[str], list[str]]]:
    """The rows of the table below a heading: the fields that a row is about, and its other cells."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        first, *rest = (cell.strip() for cell in line.strip("|").split(" | "))
        if line.startswith("| `"):
            yield re.findall("`([^`]+)`", first), rest


def fields(heading: str) -> list[str]:
    return sorted(name for names, _ in rows(heading) for name in names)


def test_every_field_of_the_bodies_is_in_its_table() -> None:
    own = {"prompt", "echo", "logprobs", "add_special_tokens"}
    both = (CHAT.keys() & COMPLETION.keys()) - own
    assert fields("Both routes") == sorted(both)
    assert fields("/v1/chat/completions") == sorted(CHAT.keys() - both)
    assert fields("/v1/completions") == sorted(COMPLETION.keys() - both)


def test_a_field_is_said_to_be_of_whom_its_schema_says() -> None:
    for heading, model in (
        ("Both routes", CHAT),
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETION),
    ):
        for names, (origin, *_) in rows(heading):
            for name in names:
                extra = model[name].json_schema_extra
                assert isinstance(extra, dict)
                assert (name, extra["x-origin"]) == (name, origin)


def test_every_field_of_the_bodies_has_its_test() -> None:
    for heading in ("Both routes", "/v1/chat/completions", "/v1/completions"):
        for names, cells in rows(heading):
            assert "::test_" in cells[-1], names


def test_the_refused_and_the_ignored_are_all_there_with_their_reasons() -> None:
    for heading, known in (
        ("Refused", {name: refusal.why for name, refusal in REFUSED.items()}),
        ("Ignored", dict(IGNORED)),
    ):
        assert {names[0]: rest[-1].removesuffix(" |") for names, rest in rows(heading)} == known


def test_the_tests_that_are_named_are_there() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 30
    for file, function in named:
        paths = list((ROOT / "tests").rglob(file))
        assert paths, file
        assert not function or function in set(functions_of(paths)), f"{file}::{function}"


def functions_of(paths: list[Path]) -> Iterator[str]:
    """The names of the functions at the top of files."""
    for path in paths:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name
