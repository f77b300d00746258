from __future__ import annotations

import pytest

from gateway.settings import InvalidSetting, describe, load
from gateway.settings.fallbacks import UpstreamSettings

KEY = "sk-of-the-upstream"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://host.example/v1/", "https://host.example/v1"),
        ("https://host.example", "https://host.example/v1"),
        ("https://host.example/", "https://host.example/v1"),
        ("http://[::1]:8000/openai/v1", "http://[::1]:8000/openai/v1"),
    ],
)
def test_the_address_is_a_base_url(given: str, used: str) -> None:
    assert load({"upstream_url": given}).upstream_url == used


@pytest.mark.parametrize(
    "given",
    [
        "host:8000",
        "ftp://host/v1",
        "https://",
        "https://host:99999/v1",
        "https://host:no/v1",
        f"https://user:{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
        "https://host/v1#x",
        "https://ho st/v1",
        "https://höst/v1",
        "https://host/\n",
    ],
)
def test_what_is_no_base_url_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(InvalidSetting, match="upstream_url") as refused:
        load({"upstream_url": given})
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("given", ["", "a b", "a\n", "é"])
def test_a_key_fits_a_header(given: str) -> None:
    with pytest.raises(ValueError, match="api_key"):
        UpstreamSettings.model_validate({"name": "a", "url": "http://h/v1", "api_key": given})


def test_the_key_is_shown_nowhere() -> None:
    chosen = load({"engine": "upstream", "upstream_url": "http://h/v1", "upstream_api_key": KEY})
    shown = next(one for one in describe(chosen, {}) if one.name == "upstream_api_key")
    assert KEY not in shown.value
    assert KEY not in repr(chosen) + repr(chosen.main_upstream) + repr(chosen.main_upstream.upstream)
    assert chosen.main_upstream.upstream.api_key == KEY


def test_the_engine_upstream_needs_an_address() -> None:
    with pytest.raises(InvalidSetting, match="upstream_url"):
        load({"engine": "upstream"})


def test_the_settings_and_the_engine_have_the_same_defaults() -> None:
    chosen = load({"engine": "upstream", "upstream_url": "http://h/v1"}).main_upstream
    assert chosen == UpstreamSettings(name="upstream", url="http://h/v1")
