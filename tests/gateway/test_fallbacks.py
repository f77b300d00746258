"""From the settings to the ladder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.upstream import UpstreamEngine
from gateway.fallbacks import rungs
from gateway.settings import InvalidSetting, Settings, describe, load

SPARE = {"name": "spare", "url": "http://10.0.0.7:8000", "api_key": "sk-secret"}


def settings_of(*fallbacks: dict[str, Any], **others: Any) -> Settings:
    return load({"engine": "simulated", "fallbacks": json.dumps(fallbacks), **others})


def test_without_settings_nobody_answers_in_the_engines_place() -> None:
    assert rungs(settings_of()) == []


def test_they_are_asked_in_their_order_and_the_notice_last() -> None:
    found = rungs(settings_of(SPARE, SPARE | {"name": "other"}, fallback_notice="Back soon."))
    assert [(rung.name, rung.stands_in) for rung in found] == [
        ("spare", True),
        ("other", True),
        ("notice", False),
    ]
    assert isinstance(found[0].engine, UpstreamEngine)
    assert found[0].engine.upstream.url == "http://10.0.0.7:8000/v1"


@pytest.mark.parametrize(
    ("fallbacks", "why"),
    [
        ([SPARE, SPARE], "a name of its own"),
        ([SPARE | {"name": "notice"}], "none is called notice"),
        ([SPARE | {"url": "10.0.0.7"}], "base URL"),
        ([{"name": "spare"}], "Field required"),
        ([SPARE | {"nome": "x"}], "Extra inputs"),
    ],
)
def test_what_can_not_be_asked_is_refused(fallbacks: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(InvalidSetting, match=why) as refused:
        settings_of(*fallbacks)
    assert "sk-secret" not in str(refused.value)


def test_their_keys_are_not_shown() -> None:
    shown = {one.name: one.value for one in describe(settings_of(SPARE), {})}
    assert "spare" in shown["fallbacks"]
    assert "sk-secret" not in shown["fallbacks"]
