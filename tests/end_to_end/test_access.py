"""A gateway that listens beyond loopback: who comes in, as an operator and the official SDK see it."""

from __future__ import annotations

import subprocess
import sys
import time
from uuid import uuid4

import httpx
import openai
import pytest

from gateway.access.api_keys import is_key
from tests.end_to_end.commands import command, done, new_key
from tests.end_to_end.served import Gateway, clean_environment

PASSWORD = "Zauberwort 1"
NOBODYS = "cgw_" + "x" * 51


def sdk(gateway: Gateway, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=key, max_retries=0)


def ask(client: openai.OpenAI, **options: str) -> str:
    """The answer's id."""
    answer = client.chat.completions.create(
        model="simulated", messages=[{"role": "user", "content": "hello"}], extra_headers=options
    )
    assert answer.choices[0].message.content == "hello"
    return answer.id


def status(gateway: Gateway, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{gateway.base_url}/v1/models", headers=headers).status_code


def test_the_start_says_how_to_make_the_first_key(locked: Gateway) -> None:
    assert f"API_KEY=$(chatglm-gateway keys create --user me --data-dir {locked.data_dir})" in locked.output
    line = next(line for line in locked.output.splitlines() if line.startswith("Try "))
    assert '-H "authorization: Bearer $API_KEY"' in line
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "gateway.cli",
            "keys",
            "create",
            "--user",
            "me",
            "--data-dir",
            locked.data_dir,
        ],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    key = made.stdout.removesuffix("\n")
    assert is_key(key)
    assert key not in made.stderr
    tried = subprocess.run(
        ["bash", "-c", line.removeprefix("Try ")],
        capture_output=True,
        text=True,
        env=clean_environment() | {"API_KEY": key},
    )
    assert "data: [DONE]" in tried.stdout


def test_the_official_sdk_comes_in_with_a_key_and_with_no_other(locked: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(sdk(locked, "EMPTY"))
    assert refused.value.code == "invalid_api_key"
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.AuthenticationError):
        ask(sdk(locked, NOBODYS))
    key = new_key(locked)
    row = locked.row(ask(sdk(locked, key)))
    me = httpx.get(f"{locked.base_url}/v1/me", headers={"x-api-key": key}).json()
    assert (row["user_id"].hex, row["meta_data"]["key"]) == (me["user_id"], me["key_id"])
    only_reads = sdk(locked, new_key(locked, "--scopes", "read"))
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        ask(only_reads)
    assert forbidden.value.code == "insufficient_scope"


def test_a_revocation_counts_within_two_seconds(locked: Gateway) -> None:
    key, other = new_key(locked), new_key(locked)
    assert status(locked, key) == status(locked, other) == 200
    assert done(locked, "keys", "revoke", key[:12]) == "1 key was revoked.\n"
    committed = time.monotonic()
    while status(locked, key) == 200:
        assert time.monotonic() < committed + 10
    print(f"{time.monotonic() - committed:.2f} s after the command had ended")
    assert status(locked, other) == 200
    assert "revoked" in done(locked, "keys", "list")


def test_a_key_that_is_limited_says_so_and_so_does_the_list(locked: Gateway) -> None:
    key = new_key(locked, "--name", "for search", "--weight", "2", "--tokens-per-day", "7")
    done(locked, "keys", "limit", key[:12], "--requests-per-minute", "60", "--tokens-per-day", "0")
    listed = next(line for line in done(locked, "keys", "list").splitlines() if line.startswith(key[:12]))
    assert listed.split()[2:4] == ["for", "search"]
    assert listed.endswith("requests_per_minute=60")
    assert key not in done(locked, "keys", "list")
    ended = done(locked, "keys", "limit", key[:12], "--scopes", "feedback", "--expires-days", "0.0000001")
    assert "requests_per_minute=60" in ended
    locked.wait_for(lambda: status(locked, key) == 401)


def test_users_are_made_and_log_in_and_their_keys_end_with_them(locked: Gateway) -> None:
    name = f"n-{uuid4().hex}"
    done(locked, "users", "create", name, "--password-stdin", given=f"{PASSWORD}\n")
    assert command(locked, "users", "create", name, "--no-password").exit_code == 1
    key = done(locked, "keys", "create", "--user", name).strip()
    with httpx.Client(base_url=locked.base_url) as client:
        login = {"username": name, "password": PASSWORD}
        assert client.post("/api/users/register", json=login).json()["code"] == 403
        assert client.post("/api/users/login", json=login).json()["status"] == 200
        assert client.get("/v1/models").status_code == 200
        assert client.get("/metrics").status_code == 403
        done(locked, "users", "admin", name)
        locked.wait_for(lambda: client.get("/metrics").status_code == 200)
        done(locked, "users", "admin", name, "--no")
        done(locked, "users", "limit", name, "--concurrent-requests", "3")
        locked.wait_for(lambda: client.get("/metrics").status_code == 403)
        assert client.get("/v1/me").json()["limits"]["user"]["concurrent_requests"] == 3
        done(locked, "users", "set-password", name, "--password-stdin", given=f"{PASSWORD}2\n")
        locked.wait_for(lambda: client.get("/v1/models").status_code == 401)
        assert status(locked, key) == 200
        done(locked, "users", "shut-out", name)
        locked.wait_for(lambda: status(locked, key) == 401)
        assert (
            client.post("/api/users/login", json=login | {"password": f"{PASSWORD}2"}).json()["status"] == 401
        )
    (line,) = (line for line in done(locked, "users", "list").splitlines() if name in line)
    assert line.split()[1:4] == [name, "no", "no"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create", "--user", "x", "--scopes", "all"), "--scopes"),
        (("keys", "create", "--user", "x", "--weight", "-1"), "--weight"),
        (("keys", "create", "--user", "a\nb"), "A user's name"),
        (("keys", "create", "--user", "nobody-yet", "--scopes", "admin"), "not an admin"),
        (("keys", "limit", "cgw_nothing"), "There is no key 'cgw_nothing'."),
        (("keys", "limit", NOBODYS), "by its prefix"),
        (("keys", "revoke"), "one of the three"),
        (("keys", "revoke", "--user", "nobody-there"), "There is no user nobody-there."),
        (("users", "admin", "nobody-there"), "There is no user nobody-there."),
    ],
    ids=" ".join,
)
def test_what_a_command_can_not_do_it_says_in_one_line(
    locked: Gateway, arguments: tuple[str, ...], said: str
) -> None:
    result = command(locked, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert NOBODYS not in result.stderr


def test_readiness_tells_and_usage_counts_beside_a_running_gateway(locked: Gateway) -> None:
    ready = httpx.get(f"{locked.base_url}/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "problems": []})
    assert done(locked, "usage").splitlines()[-1].startswith("total")


def test_no_key_and_no_password_is_in_what_the_gateway_printed(locked: Gateway) -> None:
    key = new_key(locked)
    with httpx.Client(base_url=locked.base_url) as client:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": NOBODYS}):
            client.post("/v1/completions", json={"prompt": "x"}, headers=headers)
        client.post("/api/users/login", json={"username": "x", "password": PASSWORD})
    locked.wait_for(lambda: "/api/users/login" in locked.output)
    for secret in (key, NOBODYS, PASSWORD):
        assert secret not in locked.output
