"""docs/chatchat.md and its Chinese twin are true: they have every route, and the same commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from gateway.app import create_app
from gateway.error_shapes import NATIVE
from gateway.settings import load

DOCS = Path(__file__).parents[1] / "docs"
TEXTS = {name: (DOCS / name).read_text() for name in ("chatchat.md", "chatchat.zh.md")}

ROUTE = re.compile(r"^\| (GET|POST|PUT|DELETE) `(/[^`]+)` \|", re.MULTILINE)
AGAIN = "/api/api/"


def served(*, told: bool) -> set[tuple[str, str]]:
    """Method and path of the native routes, those that /openapi.json tells of or the others."""
    routes = [
        route for route in create_app(load({"engine": "simulated"})).routes if isinstance(route, APIRoute)
    ]
    return {
        (method, route.path_format)
        for route in routes
        for method in route.methods
        if route.path.startswith((*NATIVE, "/v1/feedback")) and route.include_in_schema == told
    }


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_native_route_is_in_it_and_no_other(text: str) -> None:
    found = ROUTE.findall(text)
    assert len(found) == len(set(found))
    assert set(found) == served(told=True)


def test_what_a_built_front_end_asks_for_is_there_twice() -> None:
    once = {(method, path) for method, path in served(told=True) if path.startswith("/api/")}
    assert {(method, AGAIN + path.removeprefix("/api/")) for method, path in once} <= served(told=False)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_moving_takes_five_lines(text: str) -> None:
    """The first two sections."""
    for section in text.split("\n## ")[1:3]:
        assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == list("12345")


def test_both_have_the_same_commands() -> None:
    english, chinese = (re.findall(r"^```\w*\n.*?^```$", text, re.M | re.S) for text in TEXTS.values())
    assert english == chinese
    assert english


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_it_points_to_is_there(text: str) -> None:
    named = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert named
    assert all((DOCS / name).is_file() for name in named)
