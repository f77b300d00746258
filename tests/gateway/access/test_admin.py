"""The admin's routes: users and keys, made, changed, ended; and who the caller is."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from gateway.access.caller import OWN
from persistence import users
from persistence.users import User
from tests.gateway.access.house import PASSWORD, SECONDS, House, bearer

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_whoever_has_been_shut_out_is_out_at_once(house: House) -> None:
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    user = await house.new_user()
    key, session = bearer(await house.new_key(user, *OWN)), await house.new_session(user)
    for headers in (key, session):
        assert (await house.ask("GET", "/v1/models", headers)).status_code == 200
    gone = await house.ask("DELETE", f"/admin/users/{user.hex}/access", admin)
    assert (gone.status_code, gone.json()["has_password"]) == (200, False)
    for headers in (key, session):
        assert (await house.ask("GET", "/v1/models", headers)).status_code == 401


async def test_an_admin_makes_users_and_keys_changes_and_ends_them(house: House) -> None:
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    name = uuid4().hex
    given = {"username": name, "limits": {"tokens_per_day": 1000}}
    made = await house.ask("POST", "/admin/users", admin, given)
    user = made.json()
    assert (made.status_code, user["has_password"], user["limits"]["tokens_per_day"]) == (201, False, 1000)
    taken = await house.ask("POST", "/admin/users", admin, given)
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "username_taken")
    wanted = {"user_id": user["id"], "name": "n", "limits": {"requests_per_minute": 60}, "weight": 2}
    made = await house.ask("POST", "/admin/keys", admin, wanted)
    key = made.json()
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert key["key"].startswith(key["prefix"])
    me = (await house.ask("GET", "/v1/me", bearer(key["key"]))).json()
    assert (me["limits"]["key"]["requests_per_minute"], me["limits"]["user"]["tokens_per_day"]) == (60, 1000)
    assert (me["weight"], me["key_id"]) == (2.0, key["id"])

    path = f"/admin/keys/{key['id']}"
    change = {"limits": {"requests_per_minute": None, "concurrent_requests": 3}, "scopes": ["inference"]}
    changed = (await house.ask("POST", path, admin, change)).json()
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["concurrent_requests"]) == (None, 3)
    assert (changed["name"], changed["weight"], "key" in changed) == ("n", 2.0, False)
    await house.ask("POST", f"/admin/users/{user['id']}", admin, {"limits": {"tokens_per_minute": 5}})
    me = (await house.ask("GET", "/v1/me", bearer(key["key"]))).json()
    assert me["scopes"] == ["inference"]
    assert me["limits"]["user"] | {"requests_per_minute": None, "concurrent_requests": None} == {
        "requests_per_minute": None,
        "tokens_per_minute": 5,
        "tokens_per_day": 1000,
        "concurrent_requests": None,
    }
    refused = await house.ask("POST", path, admin, {"scopes": ["admin"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "scopes")
    ended = await house.ask("POST", path, admin, {"expires_at": 1})
    assert ended.json()["status"] == "expired"
    assert (await house.ask("GET", "/v1/me", bearer(key["key"]))).status_code == 401
    assert (await house.ask("POST", path, admin, {"expires_at": None})).json()["status"] == "active"
    assert (await house.ask("GET", "/v1/me", bearer(key["key"]))).status_code == 200
    assert (await house.ask("DELETE", path, admin)).json()["status"] == "revoked"
    assert "was revoked" in (await house.ask("GET", "/v1/me", bearer(key["key"]))).text
    listed = (await house.ask("GET", f"/admin/keys?user_id={user['id']}", admin)).json()
    assert [one["status"] for one in listed["data"]] == ["revoked"]
    assert key["key"] not in json.dumps(listed)


async def test_lists_come_in_pages(house: House) -> None:
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    user = await house.new_user()
    for _ in range(5):
        await house.new_key(user, "read")
    for path in (f"/admin/keys?user_id={user.hex}", "/admin/users?"):
        ids: list[str] = []
        page = {"has_more": True, "last_id": None}
        while page["has_more"] and len(ids) < 5:
            after = f"&after={page['last_id']}" if ids else ""
            page = (await house.ask("GET", f"{path}&limit=2{after}", admin)).json()
            ids += [one["id"] for one in page["data"]]
        assert ids == sorted(set(ids), reverse=True)
        assert len(ids) >= 5
    for wrong in ("limit=0", "limit=101", "limit=x", "after=x"):
        assert (await house.ask("GET", f"/admin/keys?{wrong}", admin)).status_code == 400


async def test_a_new_password_ends_the_logins_with_the_old_one(house: House) -> None:
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    user = await house.new_user()
    session = await house.new_session(user)
    assert (await house.ask("GET", "/v1/models", session)).status_code == 200
    changed = await house.ask("POST", f"/admin/users/{user.hex}", admin, {"password": PASSWORD})
    assert changed.json()["has_password"]
    assert (await house.ask("GET", "/v1/models", session)).status_code == 401
    found = await users.get(house.lifecycle.database, user, SECONDS)
    assert isinstance(found, User)
    login = {"username": found.username, "password": PASSWORD}
    assert (await house.ask("POST", "/api/users/login", body=login)).json()["status"] == 200


async def test_me_says_who_asks(house: House) -> None:
    user = await house.new_user()
    answer = (await house.ask("GET", "/v1/me", bearer(await house.new_key(user, "read")))).json()
    assert (answer["user_id"], answer["scopes"], answer["weight"]) == (user.hex, ["read"], 1.0)
    session = (await house.ask("GET", "/v1/me", await house.new_session(user))).json()
    assert (session["user_id"], session["key_id"]) == (user.hex, None)
    assert session["scopes"] == sorted(OWN)
