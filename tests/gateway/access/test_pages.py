from __future__ import annotations

import pytest

from gateway.access.address import client_address
from gateway.access.pages import check_page
from gateway.errors import PermissionDenied
from gateway.settings import load
from tests.gateway.access.requests import request_with

LISTED = "https://chat.example.com"


def may(method: str = "POST", origins: str = LISTED, **headers: str) -> bool:
    settings = load({"engine": "simulated", "cors_origins": origins})
    try:
        check_page(request_with(method, host="gateway:8000", **headers), settings)
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        # No browser.
        ({}, True),
        ({"origin": "http://gateway:8000"}, True),
        ({"origin": "https://Gateway:8000"}, True),
        ({"origin": "http://gateway:8001"}, False),
        ({"origin": "http://gateway"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://gateway:8000.evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": LISTED}, True),
        ({"origin": LISTED, "sec_fetch_site": "cross-site"}, True),
        ({"origin": LISTED + ".evil"}, False),
        # A proxy that passes another host on: the browser, or the proxy, says that it is the same.
        ({"origin": "https://public.example", "sec_fetch_site": "same-origin"}, True),
        ({"origin": "https://public.example", "x_forwarded_host": "public.example"}, True),
        ({"origin": "https://public.example", "sec_fetch_site": "cross-site"}, False),
        ({"origin": "https://other.public.example", "sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        # Typed by the user.
        ({"sec_fetch_site": "none"}, True),
    ],
    ids=str,
)
def test_only_pages_of_this_origin_and_those_named_may_change_something(
    method: str, headers: dict[str, str], allowed: bool
) -> None:
    assert may(method, **headers) is allowed


def test_that_all_pages_may_read_what_is_open_does_not_let_them_act_for_somebody() -> None:
    assert not may(origins="*", origin="http://evil.example")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_changes_nothing_is_not_looked_at(method: str) -> None:
    assert may(method, origin="http://evil.example", sec_fetch_site="cross-site")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "192.0.2.1", "203.0.113.9"),
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "10.0.0.1, 192.0.2.1", "192.0.2.1"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("testclient", "192.0.2.1", "testclient"),
    ],
)
def test_only_a_proxy_on_this_machine_says_whom_it_speaks_for(
    peer: str, forwarded: str | None, address: str
) -> None:
    headers = {} if forwarded is None else {"x_forwarded_for": forwarded}
    assert client_address(request_with(peer=peer, **headers)) == address
