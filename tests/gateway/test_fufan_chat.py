"""Whose a chat of fufan's front end is."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from adapters.chatchat.chat_request import FufanChatRequest
from gateway.access.caller import ANONYMOUS, Caller
from gateway.errors import NotFound, PermissionDenied
from gateway.lifecycle import Lifecycle
from gateway.routes.fufan_chat import user_of
from gateway.settings import load

HIM, ANOTHER = uuid4(), uuid4()


def whose(data_dir: Path, user_id: str | None, caller: Caller, *, authentication: bool) -> UUID | None:
    chosen = {"engine": "simulated", "data_dir": data_dir, "authentication": authentication}
    return user_of(FufanChatRequest(query="x", user_id=user_id), caller, Lifecycle(load(chosen)))


@pytest.mark.parametrize("written", [HIM.hex, str(HIM), str(HIM).upper(), "", None])
def test_with_authentication_it_is_the_callers_however_he_writes_his_id(
    tmp_path: Path, written: str | None
) -> None:
    assert whose(tmp_path, written, Caller(HIM), authentication=True) == HIM


def test_with_authentication_nobody_asks_for_somebody_else(tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied, match="'user_id' is not the caller's"):
        whose(tmp_path, ANOTHER.hex, Caller(HIM), authentication=True)


def test_without_it_is_whoever_the_body_names(tmp_path: Path) -> None:
    assert whose(tmp_path, ANOTHER.hex, Caller(HIM), authentication=False) == ANOTHER
    assert whose(tmp_path, None, Caller(HIM), authentication=False) == HIM
    assert whose(tmp_path, HIM.hex, ANONYMOUS, authentication=False) == HIM
    assert whose(tmp_path, None, ANONYMOUS, authentication=False) is None


@pytest.mark.parametrize("authentication", [True, False])
@pytest.mark.parametrize("written", ["somebody", "0" * 31, "-" * 36])
def test_what_is_no_id_is_nobodys(tmp_path: Path, written: str, authentication: bool) -> None:
    with pytest.raises(NotFound, match="there is no such user"):
        whose(tmp_path, written, Caller(HIM), authentication=authentication)
