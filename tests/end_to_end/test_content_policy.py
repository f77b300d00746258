"""What the operator wants to be kept of the text is kept, and nothing else, however a request ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.served import Gateway, running

SECRET = "secretive"
CHAT: dict[str, object] = {
    "messages": [
        {"role": "system", "content": f"{SECRET} system"},
        {"role": "user", "content": f"{SECRET} q"},
    ],
    "history": [["user", f"{SECRET} before"]],
    "stop": [f"{SECRET} stop"],
    "chat_template_kwargs": {SECRET: SECRET},
    "max_tokens": 50,
    "user": "label",
    "n": 2,
    "temperature": 0.5,
}
COMPLETION: dict[str, object] = {"prompt": [list(map(ord, SECRET))], "user": "label", "max_tokens": 4}
ENDS = ({"x-request-id": "whole"}, {"x-request-id": "late", "x-request-timeout": "0.3"})


def ask(gateway: Gateway) -> None:
    """Answers that are whole, and others that are not."""
    with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
        for headers in ENDS:
            client.post("/v1/chat/completions", json=CHAT, headers=headers)
            client.post("/v1/completions", json=COMPLETION | {"stream": True}, headers=headers)


@pytest.mark.parametrize("store", ["none", "last"])
def test_only_what_is_wanted_is_kept(data_dir: Path, store: str) -> None:
    options = ("--engine", "simulated", "--simulated-tokens-per-second", "30")
    with running(data_dir, *options, GATEWAY_STORE_CONTENT=store) as gateway:
        ask(gateway)
        rows = gateway.rows()
        dumped = dump(gateway)
    assert [
        (row["status"], row["completion_tokens"] > 0) for row in rows if row["request_id"] == "whole"
    ] == [("completed", True)] * 2
    assert {row["meta_data"]["user"] for row in rows} == {"label"}
    for row in rows:
        assert row["messages"] is None
        if store == "none":
            assert (row["query"], row["response"], row["details"]) == (None, None, None)
        else:
            assert row["query"] in (f"{SECRET} q", SECRET)
            assert row["details"].keys() <= {"choices"}
    # Nor anywhere else in the database.
    assert (SECRET in dumped) == (store == "last")
    assert f"{SECRET} before" not in dumped
    assert f"{SECRET} system" not in dumped
    assert str(list(map(ord, SECRET))) not in dumped
    assert "label" in dumped


def dump(gateway: Gateway) -> str:
    """All that the tables hold."""
    pid, _, _, _, socket_dir, *_ = (gateway.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    # The library has several versions of PostgreSQL, and a dump is for its own only.
    pg_dump = Path(psutil.Process(int(pid)).exe()).parent / "pg_dump"
    url = f"postgresql://postgres@/postgres?host={socket_dir}"
    return subprocess.run([pg_dump, url], check=True, capture_output=True, text=True).stdout


def test_a_text_that_is_too_long_is_cut_and_marked_and_counted(data_dir: Path) -> None:
    with running(data_dir, "--engine", "simulated", GATEWAY_CONTENT_MAX_CHARACTERS="10") as gateway:
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            body = {"messages": [{"role": "user", "content": "😀" * 50}]}
            answer = client.post("/v1/chat/completions", json=body).json()
        row = gateway.row(answer["id"])
    assert answer["choices"][0]["message"]["content"] == "😀" * 50
    assert (row["query"], row["response"], row["completion_tokens"]) == ("😀" * 10, "😀" * 10, 50)
    assert row["meta_data"]["cut"] == {"query": 50, "response": 50}
