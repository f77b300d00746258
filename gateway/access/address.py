"""Where a request comes from."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

# Added by whoever hands a request on for somebody else.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def client_address(request: Request) -> str:
    """The client's, as far as it can be known: a proxy on this machine is believed in the last thing that it
    says of whom it speaks for; anyone else could say anything."""
    peer = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return forwarded if forwarded and is_loopback(peer) else peer


def is_local(request: Request) -> bool:
    """Whether it came over the loopback interface, for nobody else, and to its own name: not through a
    proxy, and not from a web page whose name was made to lead here."""
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    try:
        # Not request.url, which has the server's own address where the header is not as it should be.
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return is_loopback(request.client.host) and (host == "localhost" or is_loopback(host))


def is_loopback(address: str) -> bool:
    """Whether it is this machine's own."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback
