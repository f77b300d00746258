"""Every route with every kind of caller, as docs/security.md has it; and nobody sees what is not his."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.access.api_keys import new_key
from gateway.access.caller import OWN, Scope
from gateway.access.sessions import COOKIE
from gateway.app import create_app
from gateway.settings import load
from tests.gateway.access.house import PASSWORD, House, bearer

in_the_house = pytest.mark.asyncio(loop_scope="package")

TEXT = (Path(__file__).parents[3] / "docs" / "security.md").read_text()

# What a caller may do; None: nobody knows who he is.
Rights = frozenset[str] | None
Callers = dict[str, tuple[dict[str, str], Rights]]


def documented() -> dict[tuple[str, str], str]:
    """What each route needs, as the text's table has it."""
    section = TEXT.partition("\n## Scopes\n")[2].partition("\n## ")[0]
    found: dict[tuple[str, str], str] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            routes, need = (cell.strip() for cell in line.strip("|").split(" | "))
            for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", routes):
                assert (method, path) not in found, path
                found[method, path] = need
    return found


def routes_of(app: FastAPI) -> Iterator[tuple[str, str, APIRoute]]:
    """Each method of each route, under the path that the text has for it. What ends logins comes last."""
    for route in sorted(app.routes, key=lambda one: getattr(one, "path", "").endswith("/logout")):
        assert isinstance(route, APIRoute), f"{route}: nothing is known of who may come there"
        path = route.path.replace(":path}", "}").replace("/api/api/", "/api/").rstrip("/")
        for method in route.methods:
            yield method, path, route


def test_the_text_has_every_route_and_no_other() -> None:
    app = create_app(load({"engine": "simulated"}))
    served = {(m, path) for m, path, route in routes_of(app) if route.endpoint.__name__ != "not_here"}
    assert served == documented().keys()
    assert set(documented().values()) == {*Scope, "any", "open"}


async def callers_of(house: House) -> Callers:
    """One of each kind, by what he is."""
    user, admin = await house.new_user(), await house.new_user(is_admin=True)
    own = frozenset(map(str, OWN))
    found: Callers = {
        "nobody": ({}, None),
        "a key that is not there": (bearer(new_key()), None),
        "a key of somebody else's making": (bearer("sk-" + "x" * 48), None),
        "half a key": (bearer((await house.new_key(user, *own))[:-1]), None),
        "a key of another scheme": ({"authorization": f"Basic {await house.new_key(user, *own)}"}, None),
        "a user's id": (bearer(user.hex), None),
        "an expired key": (bearer(await house.new_key(user, *own, expired=True)), None),
        "a revoked key": (bearer(await house.new_key(admin, "admin", revoked=True)), None),
        "two keys": (
            bearer(await house.new_key(user, *own)) | {"x-api-key": await house.new_key(user, *own)},
            None,
        ),
        "a key": (bearer(await house.new_key(user, *own)), own),
        "x-api-key": ({"x-api-key": await house.new_key(user, *own)}, own),
        "a user's key for admins": (bearer(await house.new_key(user, "admin")), frozenset()),
        "an admin's own key": (bearer(await house.new_key(admin, *own)), own),
        "an admin's key": (bearer(await house.new_key(admin, "admin")), frozenset({"admin"})),
        "no session": ({"cookie": f"{COOKIE}={'x' * 43}"}, None),
        "a session": (await house.new_session(user), own),
        "a session and a user's id": (await house.new_session(user) | bearer(user.hex), own),
        "an admin's session": (await house.new_session(admin), own | {"admin"}),
    }
    for scope in OWN:
        found[f"a key for {scope}"] = (bearer(await house.new_key(user, scope)), frozenset({str(scope)}))
    return found


@in_the_house
async def test_every_route_lets_in_who_may_and_nobody_else(house: House) -> None:
    needs, callers = documented(), await callers_of(house)
    let_in = kept_out = 0
    for method, path, route in routes_of(house.app):
        url = re.sub(r"\{[^}]*\}", uuid4().hex, route.path)
        for name, (headers, rights) in callers.items():
            answer = await house.ask(method, url, headers, {})
            told = (method, path, name, answer.status_code, answer.text[:200])
            need = "open" if route.endpoint.__name__ == "not_here" else needs[method, path]
            if need != "open" and rights is None:
                assert answer.status_code == 401, told
                assert answer.headers["www-authenticate"] == "Bearer", told
                kept_out += 1
            elif need in ("open", "any") or {need, "admin"} & (rights or frozenset()):
                assert answer.status_code not in (401, 403), told
                assert answer.status_code < 500, told
                let_in += 1
            else:
                assert answer.status_code == 403, told
                assert "scopes do not include" in answer.text, told
                kept_out += 1
    assert let_in > 200
    assert kept_out > 500


@in_the_house
async def test_every_answer_is_careful_with_browsers(house: House) -> None:
    for path in ("/health/live", "/v1/models", "/nope", "/api/users/login"):
        headers = (await house.ask("GET", path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "strict-transport-security" not in headers
    secure = await house.ask("GET", "/health/live", {"x-forwarded-proto": "https"})
    assert secure.headers["strict-transport-security"] == "max-age=31536000"
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    page = await house.ask("GET", "/docs", admin)
    assert page.headers.get_list("content-security-policy", split_commas=False) == [
        page.headers["content-security-policy"]
    ]
    assert "https://cdn.jsdelivr.net" in page.headers["content-security-policy"]


@in_the_house
async def test_a_page_of_another_origin_may_act_with_a_key_and_not_with_a_cookie(house: House) -> None:
    user = await house.new_user()
    page = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    key = bearer(await house.new_key(user, *OWN))
    session = await house.new_session(user)
    body = {"prompt": "x"}
    for headers, status in ((session | page, 403), (key | page, 200), (key | session | page, 200)):
        assert (await house.ask("POST", "/v1/completions", headers, body)).status_code == status


@in_the_house
async def test_nothing_that_was_said_or_kept_holds_a_secret(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    user = await house.new_user()
    key, unknown = await house.new_key(user, *OWN), new_key()
    wrong = "not " + PASSWORD
    name = {"username": uuid4().hex}
    assert (
        await house.ask("POST", "/api/users/register", body=name | {"password": PASSWORD})
    ).status_code == 201
    for password in (PASSWORD, wrong, PASSWORD[:7]):
        await house.ask("POST", "/api/users/login", body=name | {"password": password})
    for given in (key, unknown):
        for headers in (bearer(given), {"x-api-key": given}, bearer(given) | {"x-api-key": new_key()}):
            await house.ask("POST", "/v1/completions", headers, {"prompt": "x"})
            await house.ask("POST", "/v1/completions", headers, {"prompt": 1, "api_key": 2})
            await house.ask("GET", "/nope", headers)
    async with house.lifecycle.database.engine.connect() as connection:
        rows = []
        for table in ("message_full", "api_key", '"user"', "session", "conversation", "feedback"):
            found = await connection.exec_driver_sql(f"SELECT row_to_json(one)::text FROM {table} AS one")
            rows += [row[0] for row in found]
    kept = "\n".join((*rows, *house.answers, caplog.text))
    assert house.answers
    assert "/v1/completions" in caplog.text
    for secret in (*house.keys, unknown, PASSWORD):
        assert secret not in kept
        assert secret[-8:] not in kept or secret == PASSWORD
