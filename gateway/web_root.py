"""A built web front end, served beside the routes."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from gateway.security_headers import WEB_ROOT


class WebRoot(StaticFiles):
    """The files of a folder, ``index.html`` for the folder itself and those in it; nothing that is hidden or
    lies outside."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Raises HTTPException for what is not there, also where there is a page for that: whoever asks for a
        route that does not exist is told so as by any other."""
        if any(part.startswith(".") for part in path.split("/") if part != "."):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        if response.status_code == 404:
            raise HTTPException(404)
        return response


def serve(app: FastAPI, folder: Path) -> None:
    """Serve what is in ``folder`` where no route is, of any method."""
    files = WebRoot(directory=folder, html=True)
    not_found = app.router.default

    async def file(scope: Scope, receive: Receive, send: Send) -> None:
        is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if is_read:
            scope.setdefault("state", {})["security_headers"] = WEB_ROOT
        await (files if is_read else not_found)(scope, receive, send)

    app.router.default = file
