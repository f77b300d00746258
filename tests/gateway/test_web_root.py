from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.settings import InvalidSetting, load

INDEX = "<!doctype html><title>chat</title>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A built front end, and things around it that are nobody's business."""
    folder = tmp_path / "dist"
    for name, text in {
        "index.html": INDEX,
        "404.html": "not here",
        "static/app.js": "1",
        "static/sub/index.html": "sub",
        "v1/models": "shadow",
        "docs": "shadow",
        ".env": "secret",
        ".git/config": "secret",
        "static/.hidden/x.js": "secret",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "linked").symlink_to(tmp_path)
    return folder


@pytest.fixture
def app(folder: Path) -> FastAPI:
    return create_app(load({"engine": "simulated", "access_log": False, "web_root": folder}))


async def ask(app: FastAPI, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=headers)


async def test_the_front_end_is_served_at_the_root(app: FastAPI) -> None:
    for path in ("/", "/?x=1", "/index.html"):
        answer = await ask(app, path)
        assert (answer.status_code, answer.text) == (200, INDEX)
        assert answer.headers["content-type"].startswith("text/html")
        # What it loads is its own business; that nobody frames it is not.
        assert "content-security-policy" not in answer.headers
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "x-request-id" in answer.headers
    script = await ask(app, "/static/app.js")
    assert (script.status_code, script.text) == (200, "1")
    assert "javascript" in script.headers["content-type"]
    assert (await ask(app, "/static/sub/")).text == "sub"
    assert (await ask(app, "/", "HEAD")).status_code == 200
    unchanged = await ask(app, "/static/app.js", **{"if-none-match": script.headers["etag"]})
    assert unchanged.status_code == 304


async def test_it_shadows_no_route(app: FastAPI) -> None:
    assert (await ask(app, "/health/live")).json() == {"status": "alive"}
    assert "shadow" not in (await ask(app, "/docs")).text
    # A route's path with another method.
    for method, path in (("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("PATCH", "/v1/models")):
        answer = await ask(app, path, method)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (await ask(app, "/api/users/login")).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/v1/nope",
        "/static",
        "/static/",
        "/static/nope.js",
        "/.env",
        "/.git/config",
        "/static/.hidden/x.js",
        "/link.txt",
        "/linked/outside.txt",
        "/linked/",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/static/%2e%2e/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/%00",
        "/a%00b",
        "/" + "x" * 5000,
    ],
)
async def test_what_is_not_there_hidden_or_outside_is_an_unknown_url(app: FastAPI, path: str) -> None:
    answer = await ask(app, path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"
    assert "secret" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_files_are_only_read(app: FastAPI, method: str) -> None:
    for path in ("/", "/static/app.js", "/nope"):
        answer = await ask(app, path, method)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


async def test_under_apis_paths_a_miss_has_their_shape(app: FastAPI) -> None:
    answer = await ask(app, "/api/nope")
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


async def test_without_a_folder_there_is_no_page() -> None:
    app = create_app(load({"engine": "simulated", "access_log": False}))
    assert (await ask(app, "/")).status_code == 404


def test_a_folder_without_a_page_is_refused_at_once(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nope"):
        with pytest.raises(InvalidSetting, match=r"web_root \(command line\): .* no index\.html"):
            load({"engine": "simulated", "web_root": folder})


async def test_a_folder_that_is_a_link_itself_is_the_operators_choice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    app = create_app(load({"engine": "simulated", "access_log": False, "web_root": tmp_path / "current"}))
    assert (await ask(app, "/")).text == INDEX
    assert (await ask(app, "/link.txt")).status_code == 404
