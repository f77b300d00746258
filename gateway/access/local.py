"""Whether somebody asks from the machine that the gateway runs on."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from fastapi import Request

# Added by whoever hands a request on for somebody else.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


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
    return _is_loopback(request.client.host) and (host == "localhost" or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
