"""Which web pages may act for whoever is logged in: those of the gateway's own origin, and those that the
settings name. A browser sends a cookie whoever made the page that asks; it also says who that was."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from gateway.errors import PermissionDenied
from gateway.settings import Settings

# They change nothing here.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_page(request: Request, settings: Settings) -> None:
    """Raises PermissionDenied for a request that would change something, and that a browser says comes from
    a page of another site or origin.

    A request that says nothing of that comes from no browser: Sec-Fetch-Site or Origin are in each that a
    page makes with a method other than GET.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    if site in ("same-origin", "none") or (origin is None and site is None):
        return
    if origin is not None and (origin in settings.cors_origins or is_own(origin, request)):
        return
    raise PermissionDenied(
        "A page of another origin may not act for whoever is logged in here; the setting cors_origins names "
        "those that may."
    )


def is_own(origin: str, request: Request) -> bool:
    """Whether an origin is the one that the request was sent to, perhaps by way of a proxy. (No page of
    another origin can send x-forwarded-host without being let in first.) The scheme may be the proxy's."""
    hosts = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
    return urlsplit(origin).netloc.lower() in {host.strip().lower() for host in hosts if host}
