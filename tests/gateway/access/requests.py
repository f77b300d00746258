"""Requests as a route gets them."""

from __future__ import annotations

from starlette.requests import Request


def request_with(
    method: str = "POST", scheme: str = "http", peer: str = "203.0.113.9", **headers: str
) -> Request:
    """Headers' names may have underscores for hyphens."""
    return Request(
        {
            "type": "http",
            "method": method,
            "scheme": scheme,
            "path": "/",
            "query_string": b"",
            "server": ("gateway", 80),
            "client": (peer, 1234),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
    )
