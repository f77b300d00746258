"""What tells browsers to be careful with an answer. For other clients it means nothing.

An answer of the API is no page: nothing in it may run, nobody may put it into a frame, and no page of another
origin may have it as a script or an image. A web front end that an operator serves says for itself what it
loads, but for the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.requests import Request
from starlette.types import Scope

from gateway.access.sessions import is_secure

Header = tuple[bytes, bytes]

ALL: Sequence[Header] = (
    (b"x-content-type-options", b"nosniff"),
    # An address may name a conversation.
    (b"referrer-policy", b"same-origin"),
)
NO_PAGE: Header = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
SAME_ORIGIN: Header = (b"cross-origin-resource-policy", b"same-origin")

API: Sequence[Header] = (*ALL, NO_PAGE)
CLOSED_API: Sequence[Header] = (*API, SAME_ORIGIN)
WEB_ROOT: Sequence[Header] = (*ALL, (b"x-frame-options", b"SAMEORIGIN"))

# What FastAPI's page loads: Swagger UI, and a script in the page that starts it.
DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

# A year, for this host alone; a browser heeds it over TLS only.
STRICT_TRANSPORT: Header = (b"strict-transport-security", b"max-age=31536000")


def added(scope: Scope, headers: Iterable[Header], chosen: Sequence[Header]) -> list[Header]:
    """Those of ``chosen`` that an answer's ``headers`` lack, and where the client uses TLS that it is to go
    on so."""
    present = {name for name, _ in headers}
    missing = [header for header in chosen if header[0] not in present]
    return [*missing, STRICT_TRANSPORT] if is_secure(Request(scope)) else missing
