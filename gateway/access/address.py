"""Where a request comes from."""

from __future__ import annotations

from ipaddress import ip_address

from starlette.requests import Request


def client_address(request: Request) -> str:
    """The client's, as far as it can be known: a proxy on this machine is believed in the last thing that it
    says of whom it speaks for; anyone else could say anything."""
    peer = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return forwarded if forwarded and is_loopback(peer) else peer


def is_loopback(address: str) -> bool:
    """Whether it is this machine's own."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
