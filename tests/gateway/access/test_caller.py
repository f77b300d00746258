from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI, Request

from gateway.access import ownership
from gateway.access.api_keys import new_key
from gateway.access.caller import ANONYMOUS, Caller, Scope
from gateway.access.identification import caller_of
from gateway.access.ownership import check_conversation, owner_of
from gateway.app import create_app
from gateway.errors import NotFound
from gateway.lifecycle import Health, Lifecycle
from gateway.settings import load
from persistence.api_keys import ApiKey
from persistence.database import DatabaseUnavailable
from persistence.sessions import Session

TOKEN = "t" * 43
USER = uuid4()
OURS, KEYS_USER = new_key(), uuid4()


def lifecycle(tmp_path: Path, **settings: Any) -> Lifecycle:
    return Lifecycle(load({"engine": "simulated", "data_dir": tmp_path, "access_log": False} | settings))


def app_of(lifecycle: Lifecycle) -> FastAPI:
    """With a route that says who asks."""
    app = create_app(lifecycle.settings, lifecycle)

    @app.api_route("/who", methods=["GET", "POST"], include_in_schema=False)
    async def who(request: Request) -> str | None:
        user_id = (await caller_of(request, Scope.READ)).user_id
        return None if user_id is None else user_id.hex

    return app


async def ask(
    app: FastAPI, path: str = "/who", method: str = "GET", token: str | None = None, **headers: str
) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        given["cookie"] = f"other=1; gateway_session={token}; token={USER.hex}"
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=given)


class Sessions:
    """Knows TOKEN, or is away."""

    max_age_seconds = 60

    def __init__(self, *, away: bool = False, slid: bool = False) -> None:
        self.asked: list[str] = []
        self._away, self._slid = away, slid

    async def find(self, token: str) -> Session | None:
        self.asked.append(token)
        if self._away:
            raise DatabaseUnavailable("PostgreSQL: gone")
        return Session(USER, datetime.now(UTC) + timedelta(days=1), self._slid) if token == TOKEN else None


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions()


def house(tmp_path: Path, sessions: Sessions, **settings: Any) -> FastAPI:
    found = lifecycle(tmp_path, **settings)
    found.sessions = sessions  # type: ignore[assignment]
    return app_of(found)


async def test_without_authentication_and_cookie_nobody_is_asked(tmp_path: Path, sessions: Sessions) -> None:
    app = house(tmp_path, sessions)
    for headers in ({}, {"authorization": f"Bearer {USER.hex}"}, {"cookie": "token=1"}):
        answer = await ask(app, **headers)
        assert (answer.status_code, answer.json()) == (200, None)
    assert sessions.asked == []


@pytest.mark.parametrize("authentication", [True, False])
async def test_the_cookie_says_who_asks_whatever_else_comes_with_it(
    tmp_path: Path, sessions: Sessions, authentication: bool
) -> None:
    app = house(tmp_path, sessions, authentication=authentication)
    for headers in ({}, {"authorization": f"Bearer {uuid4().hex}"}, {"authorization": "Bearer"}):
        answer = await ask(app, token=TOKEN, **headers)
        assert (answer.status_code, answer.json()) == (200, USER.hex)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", [None, "x" * 43, ""])
async def test_with_authentication_nobody_comes_in_without_a_session(
    tmp_path: Path, sessions: Sessions, token: str | None
) -> None:
    app = house(tmp_path, sessions, authentication=True)
    for headers in ({}, {"authorization": f"Bearer {USER.hex}"}, {"authorization": f"Bearer {TOKEN}"}):
        answer = await ask(app, token=token, **headers)
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert (error["code"], answer.headers["www-authenticate"]) == ("invalid_api_key", "Bearer")
        assert "/api/users/login" in error["message"]
    assert (await ask(house(tmp_path, sessions), token=token)).json() is None


async def test_while_postgresql_is_away_nobody_comes_in_who_has_to_be_known(tmp_path: Path) -> None:
    answer = await ask(house(tmp_path, Sessions(away=True), authentication=True), token=TOKEN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert "gone" not in answer.text
    answer = await ask(house(tmp_path, Sessions(away=True)), token=TOKEN)
    assert (answer.status_code, answer.json()) == (200, None)


async def test_a_session_that_slides_is_told_to_the_browser(tmp_path: Path) -> None:
    app = house(tmp_path, Sessions(slid=True), authentication=True)
    answer = await ask(app, token=TOKEN, x_forwarded_proto="https")
    assert answer.headers["set-cookie"] == (
        f"gateway_session={TOKEN}; HttpOnly; Max-Age=60; Path=/; SameSite=Lax; Secure"
    )


@pytest.mark.parametrize("authentication", [True, False])
async def test_a_page_of_another_origin_does_not_act_for_whoever_is_logged_in(
    tmp_path: Path, sessions: Sessions, authentication: bool
) -> None:
    app = house(tmp_path, sessions, authentication=authentication)
    evil = {"origin": "http://evil.example", "sec_fetch_site": "cross-site"}
    answer = await ask(app, method="POST", token=TOKEN, **evil)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert sessions.asked == []
    assert (await ask(app, method="POST", token=TOKEN, origin="http://gateway")).json() == USER.hex
    # Without the cookie it has nothing that others have not.
    assert (await ask(app, method="POST", **evil)).status_code == (401 if authentication else 200)


@pytest.mark.parametrize(("given", "status"), [({}, 401), ({"authentication": False}, 200)])
async def test_under_another_server_authentication_is_on_unless_it_is_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], status: int
) -> None:
    """Where that one listens is not known: ``host`` is this gateway's own."""

    async def nothing(lifecycle: Lifecycle) -> None:
        """Needs no engine."""

    monkeypatch.setattr(Lifecycle, "start", nothing)
    monkeypatch.setattr(Lifecycle, "stop", nothing)
    # This process's log is pytest's.
    monkeypatch.setattr("gateway.app.configure_logging", lambda level, log_format: None)
    monkeypatch.setattr("gateway.app.take_over_uvicorn", lambda: None)
    app = create_app(load({"engine": "simulated", "data_dir": tmp_path, "host": "127.0.0.1"} | given))
    async with app.router.lifespan_context(app):
        assert (await ask(app, "/v1/me")).status_code == status


class Keys:
    """Knows OURS, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away

    async def find(self, key: str, address: str) -> ApiKey | None:
        if self.away:
            raise DatabaseUnavailable("PostgreSQL: gone")
        if key != OURS:
            return None
        return ApiKey(uuid4(), KEYS_USER, "n", "", OURS[:12], b"", ("read", "a scope of later"))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_without_authentication_our_key_says_who_asks_and_no_other_does(
    tmp_path: Path, sessions: Sessions, scheme: str
) -> None:
    app = house(tmp_path, sessions)
    app.state.lifecycle.api_keys = Keys()
    assert (await ask(app, authorization=f"{scheme} {OURS}")).json() == KEYS_USER.hex
    assert (await ask(app, x_api_key=OURS)).json() == KEYS_USER.hex
    for other in ("EMPTY", "sk-" + "x" * 48, new_key(), ""):
        answer = await ask(app, authorization=f"{scheme} {other}")
        assert (answer.status_code, answer.json()) == (200, None)
    # A key goes before a cookie.
    assert (await ask(app, token=TOKEN, x_api_key=OURS)).json() == KEYS_USER.hex
    app.state.lifecycle.api_keys = Keys(away=True)
    assert (await ask(app, x_api_key=OURS)).json() is None


async def test_a_key_that_can_not_be_looked_up_is_a_503_and_a_login_goes_on(
    tmp_path: Path, sessions: Sessions
) -> None:
    app = house(tmp_path, sessions, authentication=True)
    app.state.lifecycle.api_keys = Keys(away=True)
    answer = await ask(app, x_api_key=OURS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert (await ask(app, token=TOKEN, x_api_key=OURS)).json() == USER.hex


async def test_what_is_wrong_is_told_to_an_admin_and_on_the_machine_itself(
    tmp_path: Path, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def health(lifecycle: Lifecycle) -> Health:
        return Health(False, ["PostgreSQL: db.internal:5432 refused"])

    monkeypatch.setattr(Lifecycle, "health", health)
    app = house(tmp_path, sessions, authentication=True)
    local = await ask(app, "/health/ready", host="localhost")
    assert "db.internal" in local.text
    strangers: list[dict[str, str]] = [{}, {"host": "localhost", "x_forwarded_for": "203.0.113.9"}]
    for headers in strangers:
        answer = await ask(app, "/health/ready", **headers)
        assert (answer.status_code, len(answer.json()["problems"])) == (503, 1)
        assert "db.internal" not in answer.text
    assert "db.internal" in (await ask(house(tmp_path, sessions), "/health/ready")).text


async def test_what_needs_nobody_is_open(tmp_path: Path, sessions: Sessions) -> None:
    app = house(tmp_path, sessions, authentication=True)
    for path in ("/metrics", "/docs", "/openapi.json"):
        assert (await ask(app, path)).status_code == 401
    app = house(
        tmp_path, sessions, authentication=True, metrics_public=True, docs_public=True, registration="open"
    )
    for path in ("/health/live", "/metrics", "/docs", "/openapi.json"):
        assert (await ask(app, path)).status_code == 200
    for path in ("/api/users/register", "/api/api/users/login"):
        assert (await ask(app, path, "POST", content_type="application/json")).status_code == 422
    # What is not there is not there for anyone.
    assert (await ask(app, "/nope")).status_code == 404


class Owners:
    """Whose a conversation is, as PostgreSQL tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *owners: UUID | None) -> None:
        self.asked: list[str] = []
        self.owners: set[UUID | None] | Exception = set(owners)
        monkeypatch.setattr(ownership, "owners", self)

    async def __call__(self, database: object, conversation_id: str, timeout_seconds: float) -> Any:
        assert timeout_seconds == 0.5
        self.asked.append(conversation_id)
        if isinstance(self.owners, Exception):
            raise self.owners
        return self.owners


@pytest.mark.parametrize("owners", [(uuid4(),), (None,), (USER, uuid4()), (USER, None)])
async def test_somebody_elses_conversation_and_nobodys_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owners: tuple[UUID | None, ...]
) -> None:
    Owners(monkeypatch, *owners)
    found = lifecycle(tmp_path, authentication=True, database_timeout_seconds=0.5)
    with pytest.raises(NotFound) as refused:
        await check_conversation(found, Caller(USER), "c")
    assert (refused.value.status, refused.value.code) == (404, "conversation_not_found")
    assert not any(owner is not None and owner.hex in refused.value.message for owner in owners)


async def test_ones_own_and_one_that_is_not_known_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lifecycle(tmp_path, authentication=True, database_timeout_seconds=0.5)
    for owners in ((), (USER,)):
        known = Owners(monkeypatch, *owners)
        await check_conversation(found, Caller(USER), "c")
        assert known.asked == ["c"]
        await check_conversation(found, Caller(USER), None)
        assert known.asked == ["c"]


async def test_without_authentication_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Owners(monkeypatch, uuid4())
    found = lifecycle(tmp_path, database_timeout_seconds=0.5)
    for caller in (ANONYMOUS, Caller(USER)):
        await check_conversation(found, caller, "c")
        assert owner_of(found, caller) is None
    assert known.asked == []


async def test_while_postgresql_is_away_a_chat_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Owners(monkeypatch)
    known.owners = DatabaseUnavailable("PostgreSQL: gone")
    found = lifecycle(tmp_path, authentication=True, database_timeout_seconds=0.5)
    await check_conversation(found, Caller(USER), "c")
    assert known.asked == ["c"]
    found.recorder._away = "gone"
    await check_conversation(found, Caller(USER), "c")
    assert known.asked == ["c"]
