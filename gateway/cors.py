"""Which web pages may talk to the gateway: none, unless the settings name their origins."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.settings import Settings

METHODS = ("GET", "POST", "PUT", "DELETE")

# Of the answers' headers, those that a page's script may read beside the few that it always may. The
# list has no wildcard that also holds with credentials.
EXPOSED = (
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "x-gateway-degraded",
    "x-gateway-ignored-fields",
    "x-gateway-queue-ms",
    "x-gateway-ttft-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
)


def opened(app: ASGIApp, settings: Settings) -> ASGIApp:
    """``app`` for the pages of the origins in ``settings``, too."""
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins,
        allow_credentials=settings.cors_allow_credentials,
        allow_methods=METHODS,
        # The SDKs send a dozen of their own (x-stainless-*), and more with each version.
        allow_headers=("*",),
        expose_headers=EXPOSED,
    )
