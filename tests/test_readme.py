"""README.md and its Chinese twin: the same commands, the same places, and all of these are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md")}
TWINS = {"README.md", "README.zh-CN.md"}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n.*?^```$", text, re.MULTILINE | re.DOTALL)


def places(text: str) -> set[str]:
    """Files that it points to, but for its own twin."""
    return set(re.findall(r"\]\((?!https?:)([^)#]+)", text)) - TWINS


def code(text: str) -> list[str]:
    """All that stands in backticks outside of blocks, in any order: languages have their own."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return sorted(" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose))


def test_both_have_the_same_commands() -> None:
    english, chinese = (blocks(text) for text in TEXTS.values())
    assert english == chinese
    assert english


def test_both_name_the_same_things() -> None:
    english, chinese = (code(text) for text in TEXTS.values())
    assert english == chinese


def test_both_point_to_the_same_places() -> None:
    english, chinese = (places(text) for text in TEXTS.values())
    assert english == chinese


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_they_point_to_is_there(text: str) -> None:
    assert [name for name in places(text) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [name for name in named if not (page.parent / name).exists()] == []
