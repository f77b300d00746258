"""Users and conversations, as fufan-chat-api's front end asks for them, and who may see whose."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from gateway.access.login_throttle import NAME_AT_ADDRESS
from tests.end_to_end.served import Gateway, running

PASSWORD = "Zauberwort 1"
PAGE = "<!doctype html>"
WRONG = {"status": 401, "message": "用户名或密码错误。"}
COOKIE = "gateway_session"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Gateway]:
    """A gateway that lets nobody in who has not logged in, and serves a page."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    (folder / "page").mkdir()
    (folder / "page" / "index.html").write_text(PAGE)
    options = (
        "--engine",
        "simulated",
        "--authentication",
        "--registration",
        "open",
        "--web-root",
        str(folder / "page"),
    )
    with running(folder, *options) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class User:
    """Somebody who has registered, with what his browser keeps."""

    client: httpx.Client
    id: str
    name: str

    @property
    def token(self) -> str:
        return next(cookie.value or "" for cookie in self.client.cookies.jar if cookie.name == COOKIE)

    def asks(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """As that front end does: with the id that it takes for a token."""
        given = {"authorization": f"Bearer {self.id}"} | headers
        return self.client.request(method, path, json=body, headers=given)

    def told(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self.asks(method, path, body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert found["status"] == 200
        return found

    def creates(self, name: str = "n", chat_type: str = "general_chat") -> str:
        body = {"user_id": self.id, "name": name, "chat_type": chat_type}
        id_: str = self.told("POST", "/api/conversations", body)["id"]
        return id_

    def says(self, query: str, conversation_id: str) -> str:
        """The message's id."""
        body = {"query": query, "conversation_id": conversation_id, "stream": False}
        answer = self.client.post("/api/chat", json=body)
        assert (answer.status_code, answer.json()["text"]) == (200, query), answer.text
        message: str = answer.json()["message_id"]
        return message

    def conversations(self, **query: Any) -> list[dict[str, Any]]:
        path = f"/api/users/{self.id}/conversations?{httpx.QueryParams(query)}"
        found: list[dict[str, Any]] = self.told("GET", path)["data"]
        return found

    def messages(self, conversation_id: str, **query: Any) -> list[dict[str, Any]]:
        path = f"/api/conversations/{conversation_id}/messages?{httpx.QueryParams(query)}"
        found: list[dict[str, Any]] = self.told("GET", path)["data"]
        return found


def client_of(gateway: Gateway) -> httpx.Client:
    return httpx.Client(base_url=gateway.base_url, timeout=60)


def registered(gateway: Gateway, name: str | None = None) -> User:
    client = client_of(gateway)
    name = name or f"u-{uuid4().hex}"
    # As a proxy on this machine tells it: of one address there may be too many.
    address = {"x-forwarded-for": f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}::1"}
    given = {"username": name, "password": PASSWORD}
    answer = client.post("/api/users/register", json=given, headers=address)
    assert answer.status_code == 201, answer.text
    return User(client, answer.json()["id"], name)


@pytest.fixture
def one(locked: Gateway) -> Iterator[User]:
    user = registered(locked)
    yield user
    user.client.close()


@pytest.fixture
def two(locked: Gateway) -> Iterator[User]:
    user = registered(locked)
    yield user
    user.client.close()


@pytest.mark.parametrize("prefix", ["/api", "/api/api"])
def test_registering_and_logging_in_start_a_session(locked: Gateway, prefix: str) -> None:
    name = f" 小明 {uuid4().hex} "
    given = {"username": name, "password": PASSWORD}
    with client_of(locked) as client:
        assert client.get("/v1/models").status_code == 401
        answer = client.post(f"{prefix}/users/register", json=given)
        assert answer.status_code == 201
        id_ = answer.json()["id"]
        assert answer.json() == {"status": 200, "id": id_, "username": name.strip()}
        assert UUID(id_).hex == id_
        parts = answer.headers["set-cookie"].split("; ")
        assert parts[0].startswith(f"{COOKIE}=")
        assert parts[1:] == ["HttpOnly", f"Max-Age={30 * 86400}", "Path=/", "SameSite=Lax"]
        assert client.get("/v1/models").status_code == 200

        taken = client.post(f"{prefix}/users/register", json=given)
        assert (taken.status_code, taken.json()["status"]) == (400, 400)
        assert taken.json()["message"]
    with client_of(locked) as client:
        answer = client.post(
            f"{prefix}/users/login", json=given | {"code": ""}, headers={"x-forwarded-proto": "https"}
        )
        assert answer.status_code == 200
        assert answer.json() == {
            "status": 200,
            "id": id_,
            "username": name.strip(),
            "message": "Login successful",
        }
        assert answer.headers["set-cookie"].endswith("; Secure")


def test_a_wrong_password_and_an_unknown_name_are_told_the_same(locked: Gateway, one: User) -> None:
    with client_of(locked) as client:
        for given in (
            {"username": one.name, "password": PASSWORD + "x"},
            {"username": one.name, "password": ""},
            {"username": uuid4().hex, "password": PASSWORD},
            {"username": "' OR ''='", "password": "' OR ''='"},
            {"username": one.name.upper(), "password": PASSWORD, "code": None},
        ):
            answer = client.post("/api/users/login", json=given)
            assert (answer.status_code, answer.json()) == (200, WRONG)
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"username": "", "password": PASSWORD}, "username"),
        ({"username": " \t", "password": PASSWORD}, "username"),
        ({"username": "a\0b", "password": PASSWORD}, "username"),
        ({"username": "a\nb", "password": PASSWORD}, "username"),
        ({"username": "x" * 256, "password": PASSWORD}, "username"),
        ({"username": "new", "password": "x" * 7}, "password"),
        ({"username": "new", "password": "字" * 342}, "password"),
        ({"username": "new"}, "password"),
        ({"password": PASSWORD}, "username"),
        ({"username": ["a"], "password": PASSWORD}, "username"),
    ],
    ids=str,
)
def test_names_and_passwords_have_their_bounds(locked: Gateway, given: dict[str, Any], field: str) -> None:
    with client_of(locked) as client:
        answer = client.post("/api/users/register", json=given)
    told = answer.json()
    assert (answer.status_code, told["status"], told["code"]) == (422, 422, 422)
    assert told["detail"][0]["loc"] == ["body", field]
    assert PASSWORD not in answer.text
    assert "字字" not in answer.text


def test_the_longest_names_and_passwords_are_taken(locked: Gateway) -> None:
    given = {"username": "名" * 223 + uuid4().hex, "password": "字" * 341}
    with client_of(locked) as client:
        assert client.post("/api/users/register", json=given).status_code == 201
        assert client.post("/api/users/login", json=given).json()["status"] == 200


def test_whoever_logs_out_is_out(locked: Gateway, one: User) -> None:
    token = one.token
    answer = one.asks("POST", "/api/users/logout")
    assert (answer.status_code, answer.json()["status"]) == (200, 200)
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert one.asks("GET", "/v1/models").status_code == 401
    assert one.asks("GET", "/v1/models", cookie=f"{COOKIE}={token}").status_code == 401
    # Twice, and without ever having been in.
    assert one.asks("POST", "/api/api/users/logout").status_code == 200


def test_logging_in_again_ends_the_session_before(locked: Gateway, one: User) -> None:
    token = one.token
    one.told("POST", "/api/users/login", {"username": one.name, "password": PASSWORD})
    assert one.token != token
    assert one.asks("GET", "/v1/models").status_code == 200
    with client_of(locked) as client:
        assert client.get("/v1/models", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401


@pytest.mark.parametrize("prefix", ["/api", "/api/api"])
def test_a_conversation_from_its_making_to_its_end(locked: Gateway, one: User, prefix: str) -> None:
    def told(method: str, path: str, body: Any = None) -> dict[str, Any]:
        return one.told(method, prefix + path, body)

    empty = told("GET", f"/users/{one.id}/conversations")
    assert (empty["msg"], empty["data"]) == ("success", [])
    named = {"user_id": one.id, "name": "{{x}} " * 20, "chat_type": "general_chat"}
    first = told("POST", "/conversations", named)["id"]
    assert UUID(first).hex == first
    second = told("POST", "/conversations", {"user_id": str(UUID(one.id)), "name": None})["id"]
    assert told("GET", f"/conversations/{first}/messages")["data"] == []
    ids = [one.says(text, first) for text in ("a", "b'--{}", "c\n")]

    listed = told("GET", f"/users/{UUID(one.id)}/conversations?chat_types=general_chat")["data"]
    assert [(entry["id"], entry["name"], entry["chat_type"]) for entry in listed] == [
        (second, "new_chat", "general_chat"),
        (first, ("{{x}} " * 20)[:50], "general_chat"),
    ]
    assert all(datetime.fromisoformat(entry["create_time"]).tzinfo is not None for entry in listed)

    said = told("GET", f"/conversations/{UUID(first)}/messages")["data"]
    assert [(one["id"], one["query"], one["response"]) for one in said] == list(
        zip(ids, ("a", "b'--{}", "c\n"), ("a", "b'--{}", "c\n"), strict=True)
    )
    assert {(one["conversation_id"], one["chat_type"], one["status"]) for one in said} == {
        (first, "general_chat", "completed")
    }
    # Memory, over the same route.
    assert [one["meta_data"]["turns"] for one in said] == [0, 1, 2]

    assert told("PUT", f"/conversations/{first}/update_name", {"name": "改名" * 30})["message"]
    assert [entry["name"] for entry in one.conversations()] == ["new_chat", ("改名" * 30)[:50]]

    told("DELETE", f"/conversations/{first}")
    assert [entry["id"] for entry in one.conversations()] == [second]
    for method, path, body in (
        ("DELETE", "", None),
        ("PUT", "/update_name", {"name": "x"}),
        ("GET", "/messages", None),
    ):
        answer = one.asks(method, f"{prefix}/conversations/{first}{path}", body)
        assert (answer.status_code, answer.json()["status"]) == (404, 404)
    assert locked.rows("conversation_id = $1", first) == []
    for id_ in ids:
        row = locked.row(id_)
        assert (row["query"], row["response"], row["user_id"], row["meta_data"]) == (
            None,
            None,
            None,
            {"deleted": True},
        )
        assert (row["status"], row["completion_tokens"] > 0) == ("completed", True)


def test_lists_can_be_narrowed_and_paged(one: User) -> None:
    types = ["general_chat", "chat_with_search", "x"]
    ids = [one.creates(chat_type=types[number % 3]) for number in range(6)][::-1]
    assert [entry["id"] for entry in one.conversations()] == ids
    for query in (
        "chat_types=general_chat,x",
        "chat_types=x&chat_types=general_chat",
        "chat_types=%20x%20,,general_chat&chat_types=",
    ):
        found = one.told("GET", f"/api/users/{one.id}/conversations?{query}")["data"]
        assert [entry["id"] for entry in found] == [ids[0], ids[2], ids[3], ids[5]]
    page = one.told("GET", f"/api/users/{one.id}/conversations?limit=4")
    assert ([entry["id"] for entry in page["data"]], page["has_more"]) == (ids[:4], True)
    page = one.told("GET", f"/api/users/{one.id}/conversations?limit=4&before={ids[3]}")
    assert ([entry["id"] for entry in page["data"]], page["has_more"]) == (ids[4:], False)

    said = [one.says(str(number), ids[0]) for number in range(5)]
    assert [entry["id"] for entry in one.messages(ids[0], limit=2)] == said[3:]
    assert [entry["id"] for entry in one.messages(ids[0], limit=2, before=said[3])] == said[1:3]
    assert [entry["id"] for entry in one.messages(ids[0], before=str(UUID(said[1])))] == said[:1]
    assert one.messages(ids[0], chat_types="llm_chat") == []
    for query in ("limit=0", "limit=-1", "limit=x", "limit=1e3", "limit=٣", f"limit={'9' * 30}", "before=x"):
        refused = one.asks("GET", f"/api/conversations/{ids[0]}/messages?{query}")
        assert (refused.status_code, refused.json()["status"]) == (400, 400)


def test_any_text_may_be_a_conversations_id(one: User) -> None:
    for id_ in ("a/b", "中 文?#%", "..", "a/messages", "x" * 255, "c\0"):
        id_ = f"{id_}{uuid4().hex}" if len(id_) < 200 else id_
        body = {"query": "q", "conversation_id": id_, "stream": False}
        assert one.client.post("/api/chat", json=body).status_code == 200
        path = f"/api/conversations/{quote(id_, safe='')}"
        assert [entry["query"] for entry in one.told("GET", f"{path}/messages")["data"]] == ["q"]
        one.told("PUT", f"{path}/update_name", {"name": "n"})
        one.told("DELETE", path)
        assert one.asks("DELETE", path).status_code == 404


CHATS = [
    ("/api/chat", {"query": "q", "stream": False}),
    ("/api/api/chat", {"query": "q"}),
    ("/chat/chat", {"query": "q", "history_len": 5}),
    ("/chat/chat/completions", {"messages": [{"role": "user", "content": "q"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "q"}], "history_len": 5}),
    ("/v1/completions", {"prompt": "q"}),
    ("/tokenize", {"messages": [{"role": "user", "content": "q"}], "history": 5}),
]


@pytest.mark.parametrize(("path", "body"), CHATS, ids=lambda given: given if isinstance(given, str) else "")
def test_nobody_speaks_in_somebody_elses_conversation(
    locked: Gateway, one: User, two: User, path: str, body: dict[str, Any]
) -> None:
    conversation = one.creates("secret name")
    one.says("secret", conversation)
    before = locked.rows("conversation_id = $1", conversation)
    for id_ in (conversation, str(UUID(conversation)), conversation.upper()):
        for headers in ({}, {"authorization": f"Bearer {one.id}"}):
            refused = two.asks("POST", path, body | {"conversation_id": id_}, **headers)
            assert refused.status_code == 404, refused.text
            for secret in ("secret", one.id, one.name):
                assert secret not in refused.text
    assert locked.rows("conversation_id = $1", conversation) == before
    assert one.asks("POST", path, body | {"conversation_id": conversation}).status_code == 200
    # Whoever says nothing of a conversation is free to speak.
    assert two.asks("POST", path, body).status_code == 200


def test_nothing_of_one_user_is_seen_changed_or_deleted_by_another(
    locked: Gateway, one: User, two: User
) -> None:
    conversation = one.creates("secret name")
    message = one.says("secret", conversation)
    own = two.creates("own")
    unknown, unknown_user = uuid4().hex, uuid4().hex
    requests: list[tuple[str, str, Any]] = [
        ("GET", "/api/users/{user}/conversations", None),
        ("GET", "/api/users/{user}/conversations?chat_types=general_chat", None),
        ("POST", "/api/conversations", {"user_id": "{user}", "name": "x", "chat_type": "general_chat"}),
        ("GET", "/api/conversations/{conversation}/messages", None),
        ("GET", "/api/conversations/{conversation}/messages?chat_types=general_chat", None),
        ("PUT", "/api/conversations/{conversation}/update_name", {"name": "stolen"}),
        ("DELETE", "/api/conversations/{conversation}", None),
    ]

    def answer(method: str, path: str, body: Any, user: str, conversation: str) -> tuple[int, str]:
        filled = json.loads(json.dumps(body).replace("{user}", user))
        found = two.asks(method, path.format(user=user, conversation=conversation), filled)
        return found.status_code, found.text.replace(user, "U").replace(conversation, "C")

    for method, path, body in [
        (method, prefix + path, body) for prefix in ("", "/api") for method, path, body in requests
    ]:
        for user, id_ in (
            (one.id, conversation),
            (str(UUID(one.id)), str(UUID(conversation))),
            (one.id.upper(), conversation.upper()),
        ):
            foreign = answer(method, path, body, user, id_)
            assert foreign[0] == 404
            # As what is not there.
            assert foreign == answer(method, path, body, unknown_user, unknown)
    for name in ("before", "limit"):
        found = two.asks("GET", f"/api/users/{two.id}/conversations?{name}={conversation}")
        assert "secret" not in found.text
    found = two.asks("GET", f"/api/conversations/{own}/messages?before={message}")
    assert "secret" not in found.text
    assert [(entry["id"], entry["name"]) for entry in one.conversations()] == [(conversation, "secret name")]
    assert [entry["query"] for entry in one.messages(conversation)] == ["secret"]
    assert [entry["id"] for entry in two.conversations()] == [own]


def test_two_that_speak_first_in_the_same_conversation_see_only_what_is_theirs(
    locked: Gateway, one: User, two: User
) -> None:
    """At the same moment, so neither is refused for sure."""
    conversation = uuid4().hex
    ready = threading.Barrier(2)

    def talk(user: User, text: str) -> int:
        body = {"messages": [{"role": "user", "content": text}], "conversation_id": conversation}
        ready.wait(20)
        return user.asks("POST", "/v1/chat/completions", body).status_code

    with ThreadPoolExecutor(2) as threads:
        statuses = list(threads.map(talk, (one, two), ("first's", "second's")))
    assert set(statuses) <= {200, 404}
    assert 200 in statuses
    for user, foreign in ((one, "second's"), (two, "first's")):
        answer = user.asks("GET", f"/api/conversations/{conversation}/messages")
        assert foreign not in answer.text
        body = {
            "messages": [{"role": "user", "content": "Q"}],
            "conversation_id": conversation,
            "history_len": 9,
            "return_token_ids": True,
        }
        answer = user.asks("POST", "/v1/chat/completions", body)
        if answer.status_code == 200:
            prompt = "".join(map(chr, answer.json()["prompt_token_ids"]))
            assert foreign not in prompt


def test_whoever_has_no_session_comes_nowhere_whatever_he_says_he_is(locked: Gateway, one: User) -> None:
    conversation = one.creates("secret")
    with client_of(locked) as client:
        for headers in (
            {"authorization": f"Bearer {one.id}"},
            {"authorization": f"Bearer {one.token}"},
            {"cookie": f"{COOKIE}={one.id}"},
            {"cookie": f"token={one.id}; {COOKIE}="},
            {"cookie": f"{COOKIE}={'A' * 43}"},
            {},
        ):
            for method, path in (
                ("GET", f"/api/users/{one.id}/conversations"),
                ("GET", f"/api/api/conversations/{conversation}/messages"),
                ("DELETE", f"/api/conversations/{conversation}"),
                ("GET", "/v1/models"),
            ):
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert "secret" not in answer.text
            for path, body in CHATS:
                assert client.post(path, json=body, headers=headers).status_code == 401
        assert client.get("/health/ready").status_code == 200
    assert [entry["id"] for entry in one.conversations()] == [conversation]


def test_a_page_of_another_origin_can_not_use_the_cookie(one: User) -> None:
    conversation = one.creates("mine")
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "null"},
    ):
        for method, path, body in (
            ("DELETE", f"/api/conversations/{conversation}", None),
            ("POST", "/api/users/logout", None),
            ("POST", "/api/users/login", {"username": one.name, "password": PASSWORD}),
            ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "q"}]}),
        ):
            assert one.asks(method, path, body, **headers).status_code == 403
    assert [entry["id"] for entry in one.conversations()] == [conversation]


def test_guessing_is_slowed_down_and_keeps_nobody_else_out(locked: Gateway, two: User) -> None:
    victim = registered(locked)
    victim.client.close()

    def guess(number: int, name: str = victim.name, password: str = "wrong") -> httpx.Response:
        with client_of(locked) as client:
            return client.post("/api/users/login", json={"username": name, "password": password})

    with ThreadPoolExecutor(25) as threads:
        answers = list(threads.map(guess, range(50)))
    tried = [answer for answer in answers if answer.status_code == 200]
    assert len(tried) == NAME_AT_ADDRESS.at_once
    assert all(answer.json() == WRONG for answer in tried)
    for answer in answers:
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["status"]) == (429, 429)
            assert 0 < int(answer.headers["retry-after"]) <= NAME_AT_ADDRESS.every
    # Also with the right one, and the same for a name that nobody has.
    assert guess(0, password=PASSWORD).status_code == 429
    nobody = uuid4().hex
    statuses = [guess(0, nobody).status_code for _ in range(NAME_AT_ADDRESS.at_once + 1)]
    assert statuses == [200] * NAME_AT_ADDRESS.at_once + [429]
    assert guess(0, two.name, PASSWORD).json()["status"] == 200


async def everything(gateway: Gateway) -> str:
    """All rows of all tables, as text."""
    socket_dir = (gateway.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[4]
    connection = await asyncpg.connect(f"postgresql://postgres@/postgres?host={socket_dir}")
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [
        row["text"]
        for table in tables
        for row in await connection.fetch(f'SELECT t::text AS text FROM "{table["tablename"]}" AS t')
    ]
    await connection.close()
    return "\n".join(rows)


def test_passwords_and_tokens_are_nowhere(locked: Gateway) -> None:
    password = f"geheim-{uuid4().hex}"
    name = uuid4().hex
    answers = []
    tokens = []
    with client_of(locked) as client:
        for path, given in (
            ("register", {"username": name, "password": password}),
            ("register", {"username": name, "password": password}),
            ("register", {"username": "a\nb", "password": password}),
            ("register", {"username": 5, "password": [password]}),
            ("login", {"username": name, "password": password}),
            ("login", {"username": name, "password": password + "x"}),
            ("login", {"username": ["x"], "password": {"p": password}}),
            ("login", {"username": "x", "password": password * 40}),
        ):
            answers.append(client.post(f"/api/users/{path}", json=given))
            tokens += [cookie.value or "" for cookie in client.cookies.jar if cookie.name == COOKIE]
        answers.append(client.post("/api/users/login", content=f'{{"password": "{password}"', headers=JSON))
        answers.append(client.get("/v1/models"))
    assert len(set(tokens)) == 2
    stored = asyncio.run(everything(locked))
    assert name in stored
    for secret in (password, *tokens):
        for text in (locked.output, stored, *(answer.text for answer in answers)):
            assert secret not in text


def test_without_authentication_the_dialect_works_as_before(simulated: Gateway) -> None:
    user = registered(simulated)
    with client_of(simulated) as anyone:
        conversation = user.creates("first")
        user.says("hello", conversation)
        # The id in the path is trusted.
        found = anyone.get(f"/api/users/{user.id}/conversations", headers={"authorization": "Bearer x"})
        assert [entry["id"] for entry in found.json()["data"]] == [conversation]
        found = anyone.get(f"/api/conversations/{conversation}/messages")
        assert [entry["query"] for entry in found.json()["data"]] == ["hello"]
        made = anyone.post("/api/conversations", json={"user_id": user.id, "name": "n"})
        assert [entry["id"] for entry in user.conversations()] == [made.json()["id"], conversation]
        body = {"query": "again", "conversation_id": conversation, "stream": False}
        assert anyone.post("/api/chat", json=body).status_code == 200
        assert len(user.messages(conversation)) == 2
        assert anyone.delete(f"/api/conversations/{conversation}").json()["status"] == 200
        # What is not there.
        for id_ in (uuid4().hex, "nobody"):
            found = anyone.get(f"/api/users/{id_}/conversations")
            assert (found.status_code, found.json()["data"]) == (200, [])
            refused = anyone.post("/api/conversations", json={"user_id": id_, "name": "n"})
            assert (refused.status_code, refused.json()["status"]) == (400, 400)
            assert anyone.get(f"/api/conversations/{id_}/messages").json()["data"] == []
        refused = anyone.post("/api/conversations", json={"name": "n"})
        assert (refused.status_code, refused.json()["code"]) == (400, 400)
        # Who is logged in stands in his rows.
        answer = user.asks("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "q"}]})
        assert simulated.row(answer.json()["id"])["user_id"] == UUID(user.id)
        answer = anyone.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "q"}]})
        assert simulated.row(answer.json()["id"])["user_id"] is None
    user.client.close()


def test_a_conversation_is_deleted_while_it_is_being_answered(slow: Gateway) -> None:
    conversation = uuid4().hex
    with client_of(slow) as client:
        body = {
            "messages": [{"role": "user", "content": "secret" * 5}],
            "conversation_id": conversation,
            "stream": True,
        }
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(json.loads(line[6:]) for line in lines if line.startswith("data: "))
            slow.wait_for(lambda: slow.rows("conversation_id = $1", conversation))
            assert client.delete(f"/api/conversations/{conversation}").status_code == 200
            assert slow.rows("conversation_id = $1", conversation) == []
            assert list(lines)[-2] == "data: [DONE]"
        row = slow.row(first["id"])
        assert (row["status"], row["completion_tokens"] > 0, row["prompt_tokens"]) == ("completed", True, 30)
        assert (row["query"], row["response"], row["meta_data"]) == (None, None, {"deleted": True})
        assert client.get(f"/api/conversations/{conversation}/messages").json()["data"] == []
        assert client.delete(f"/api/conversations/{conversation}").status_code == 404


def test_while_postgresql_hangs_those_who_are_in_go_on(data_dir: Path) -> None:
    options = ("--engine", "simulated", "--authentication", "--registration", "open")
    with running(data_dir, *options, GATEWAY_DATABASE_TIMEOUT_SECONDS="2") as gateway:
        known, unknown = registered(gateway), registered(gateway)
        question = {"messages": [{"role": "user", "content": "q"}]}
        assert known.asks("POST", "/v1/chat/completions", question).status_code == 200
        conversation = known.creates()
        with gateway.hanging_postgresql():
            named = question | {"conversation_id": conversation}
            assert known.asks("POST", "/v1/chat/completions", named).status_code == 200
            for refused in (
                unknown.asks("POST", "/v1/chat/completions", question),
                known.asks("GET", f"/api/users/{known.id}/conversations"),
                known.asks("DELETE", f"/api/conversations/{conversation}"),
                known.asks("POST", "/api/users/login", {"username": known.name, "password": PASSWORD}),
                known.asks("POST", "/api/users/logout"),
            ):
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
        gateway.wait_for(lambda: unknown.asks("GET", "/v1/models").status_code == 200)
        path = f"/api/conversations/{conversation}/messages"
        gateway.wait_for(lambda: known.asks("GET", path).status_code == 200)
        assert [entry["query"] for entry in known.messages(conversation)] == ["q"]
        known.client.close()
        unknown.client.close()
    # Sessions outlive the gateway, as rows do.
    with running(data_dir, *options) as gateway, client_of(gateway) as client:
        assert client.get("/v1/models", headers={"cookie": f"{COOKIE}={known.token}"}).status_code == 200


def test_a_front_end_is_served_beside_the_routes(locked: Gateway) -> None:
    with client_of(locked) as client:
        assert client.get("/").text == PAGE
        assert client.get("/v1/models").status_code == 401
        assert client.get("/nope").json()["error"]["code"] == "unknown_url"
