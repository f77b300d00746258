"""/openapi.json is true also where keys are asked for: of whoever has the right one, another one, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case, Config
from schemathesis.specs.openapi.checks import negative_data_rejection

from gateway.access.api_keys import new_key as unknown_key
from tests.end_to_end.commands import done, new_key
from tests.end_to_end.served import Gateway
from tests.end_to_end.test_schema import CHECKS, DOCUMENT, NATIVE_PATHS, check
from tests.end_to_end.test_schema import schema as with_corner_cases
from tests.gateway.access.test_matrix import documented

NEEDS = documented()
# Behind a proxy, as far as the gateway sees: what is counted of them is counted there.
GUESSES_FROM, COMES_FROM = {"x-forwarded-for": "192.0.2.1"}, {"x-forwarded-for": "192.0.2.2"}
SOME = settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# Without keys every corner of the other routes has been tried already.
schema = schemathesis.openapi.from_dict(
    DOCUMENT, config=Config.from_dict({"phases": {"coverage": {"enabled": False}}})
)
ADMIN_PATHS = "^/admin/"


@dataclass(frozen=True)
class House:
    """A gateway that asks for keys; headers of an admin, and of a caller who has used up what he may. What
    the admin changes is not his own: ``key_id`` and ``user_id`` are whose he may."""

    gateway: Gateway
    admin: dict[str, str]
    spent: dict[str, str]
    key_id: str
    user_id: str


@pytest.fixture(scope="module")
def house(locked: Gateway) -> Iterator[House]:
    admin = bearer(done(locked, "keys", "create", "--user", f"u-{uuid4().hex}", "--admin").strip())
    spent = bearer(new_key(locked, "--requests-per-minute", "1"))
    other = httpx.get(f"{locked.base_url}/v1/me", headers=bearer(new_key(locked))).json()
    yield House(locked, admin, spent, other["key_id"], other["user_id"])
    # It was never its own key that the fuzzer revoked, nor its user whom it shut out.
    assert httpx.get(f"{locked.base_url}/admin/users", headers=admin).status_code == 200


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", **COMES_FROM}


@with_corner_cases.include(path_regex=ADMIN_PATHS).parametrize()
@SOME
def test_every_answer_of_the_admins_routes_is_documented(house: House, case: Case[Any]) -> None:
    ask_as_admin_and_as_nobody(house, case, [*CHECKS, negative_data_rejection])
    # Once more, of a user and a key that are there.
    check(about(case, house), house.gateway, CHECKS, house.admin)


@schema.exclude(path_regex=f"{NATIVE_PATHS}|{ADMIN_PATHS}").parametrize()
@SOME
def test_every_answer_is_documented(house: House, case: Case[Any]) -> None:
    ask_as_admin_and_as_nobody(house, case, [*CHECKS, negative_data_rejection])


@schema.include(path_regex=NATIVE_PATHS).parametrize()
@SOME
def test_every_native_answer_is_documented(house: House, case: Case[Any]) -> None:
    ask_as_admin_and_as_nobody(house, case, CHECKS)


def ask_as_admin_and_as_nobody(house: House, case: Case[Any], checks: list[Any]) -> None:
    """An admin is never unknown; nobody is let in only where it is open."""
    assert check(case, house.gateway, checks, house.admin) != 401
    status = check(case, house.gateway, CHECKS, COMES_FROM)
    method, path = case.method.lower(), case.operation.path
    if method not in DOCUMENT["paths"][path]:
        assert status == 405
    elif need(method, path) != "open":
        # No route of more than one segment takes a line's end.
        broken = any("%0A" in str(value) for value in (case.path_parameters or {}).values())
        assert status == 401 or (broken and status == 404)


def about(case: Case[Any], house: House) -> Case[Any]:
    """It, of a user and a key that are there."""
    known = {"user_id": house.user_id, "key_id": house.key_id}
    for part in (case.path_parameters, case.body):
        if isinstance(part, dict):
            part.update({name: id_ for name, id_ in known.items() if name in part})
    return case


def need(method: str, path: str) -> str:
    """As docs/security.md has it."""
    return NEEDS[method.upper(), path.rstrip("/")]


def test_whoever_has_used_up_what_he_may_is_told_so_as_documented(house: House) -> None:
    generating = [(method, path) for method, path in documented_cases() if "504" in responses(method, path)]
    assert len(generating) == 7
    for method, path in generating:
        statuses = [check(example(method, path), house.gateway, CHECKS, house.spent) for _ in range(2)]
        assert statuses[1] == 429, (path, statuses)


def test_whoever_tries_many_keys_is_told_so_as_documented(house: House) -> None:
    def guess(method: str, path: str) -> int:
        headers = {"x-api-key": unknown_key(), **GUESSES_FROM}
        return check(example(method, path), house.gateway, CHECKS, headers)

    for method, path in documented_cases():
        if need(method, path) != "open":
            # At first he may try some, and then now and then another one.
            statuses = (guess(method, path) for _ in range(300))
            assert next((status for status in statuses if status != 401), None) == 429, (method, path)


def documented_cases() -> list[tuple[str, str]]:
    """Method and path of each operation."""
    return [(method, path) for path, operations in DOCUMENT["paths"].items() for method in operations]


def responses(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]["responses"]
    return found


def example(method: str, path: str) -> Case[Any]:
    """A request with the first body that the document shows, of nothing that would have to be there."""
    parts: dict[str, Any] = {}
    if told := DOCUMENT["paths"][path][method].get("requestBody"):
        content = told["content"]["application/json"]
        shown = next(iter(content["examples"].values()))["value"]
        body = {name: shown[name] for name in shown.keys() - {"conversation_id", "model_name"}}
        parts = {"body": body, "media_type": "application/json"}
    named = {
        name: uuid4().hex
        for name in ("model", "key_id", "user_id", "conversation_id")
        if f"{{{name}}}" in path
    }
    case: Case[Any] = schema[path][method].Case(path_parameters=named, **parts)
    return case
