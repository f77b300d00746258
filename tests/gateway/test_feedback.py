from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from gateway.access.caller import ANONYMOUS, Caller
from gateway.errors import InvalidApiKey, NotFound, Unavailable
from gateway.feedback import give
from gateway.lifecycle import Lifecycle
from gateway.settings import load
from persistence.feedback import Feedback, UnknownMessage

ID = uuid7().hex
SOMEBODY = Caller(uuid4())


class Stored:
    """Messages of one owner, and what was given for them."""

    def __init__(self, owner: UUID | None, looks: int = 1) -> None:
        self.owner, self.looks_before = owner, looks - 1
        self.given: list[Feedback] = []
        self.arrivals = 0

    async def give(self, database: object, feedback: Feedback, owner: UUID | None, *rest: object) -> Feedback:
        if self.looks_before > self.arrivals or owner not in (None, self.owner):
            raise UnknownMessage
        self.given.append(feedback)
        return feedback

    async def arrived(self, id_: UUID, timeout_seconds: float) -> bool:
        assert id_.hex == ID
        self.arrivals += 1
        return True


def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Stored, **settings: Any) -> Lifecycle:
    lifecycle = Lifecycle(load({"engine": "simulated", "data_dir": tmp_path} | settings))
    monkeypatch.setattr("persistence.feedback.give", stored.give)
    monkeypatch.setattr(lifecycle.recorder, "arrived", stored.arrived)
    return lifecycle


@pytest.mark.parametrize("owner", [None, SOMEBODY.user_id, uuid4()])
async def test_without_authentication_everybodys_message_can_be_rated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: UUID | None
) -> None:
    stored = Stored(owner)
    lifecycle = house(tmp_path, monkeypatch, stored)
    for caller in (ANONYMOUS, SOMEBODY):
        given = await give(lifecycle, caller, ID, 5)
        assert (given.message_id.hex, given.user_id) == (ID, caller.user_id)
    assert len({one.id for one in stored.given}) == 2


@pytest.mark.parametrize("owner", [None, SOMEBODY.user_id])
async def test_with_authentication_nobody_rates_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: UUID | None
) -> None:
    stored = Stored(owner)
    with pytest.raises(InvalidApiKey):
        await give(house(tmp_path, monkeypatch, stored, authentication=True), ANONYMOUS, ID, 5)
    assert stored.given == []


@pytest.mark.parametrize("owner", [None, uuid4()])
async def test_with_authentication_somebody_elses_is_as_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: UUID | None
) -> None:
    lifecycle = house(tmp_path, monkeypatch, Stored(owner), authentication=True)
    with pytest.raises(NotFound) as theirs:
        await give(lifecycle, SOMEBODY, ID, 5)
    monkeypatch.setattr("persistence.feedback.give", Stored(None, looks=9).give)
    with pytest.raises(NotFound) as unknown:
        await give(lifecycle, SOMEBODY, ID, 5)
    assert vars(theirs.value) == vars(unknown.value)
    assert theirs.value.code == "message_not_found"


async def test_with_authentication_ones_own_can_be_rated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Stored(SOMEBODY.user_id)
    lifecycle = house(tmp_path, monkeypatch, stored, authentication=True)
    given = await give(lifecycle, SOMEBODY, f"chatcmpl-{ID}", -1, "r", "c", "mine")
    assert stored.given == [given]
    assert given == replace(given, id="mine", score=-1, reason="r", correction="c", user_id=SOMEBODY.user_id)


async def test_a_row_that_is_on_its_way_is_looked_for_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Stored(None, looks=2)
    await give(house(tmp_path, monkeypatch, stored), ANONYMOUS, ID, 5)
    assert (len(stored.given), stored.arrivals) == (1, 1)
    stored = Stored(None, looks=3)
    with pytest.raises(NotFound):
        await give(house(tmp_path, monkeypatch, stored), ANONYMOUS, ID, 5)
    assert (stored.given, stored.arrivals) == ([], 1)


async def test_while_rows_wait_none_is_said_to_be_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle = house(tmp_path, monkeypatch, Stored(None, looks=2))

    async def not_in_time(id_: UUID, timeout_seconds: float) -> bool:
        return False

    monkeypatch.setattr(lifecycle.recorder, "arrived", not_in_time)
    with pytest.raises(Unavailable) as refused:
        await give(lifecycle, ANONYMOUS, ID, 5)
    assert refused.value.code == "database_unavailable"
