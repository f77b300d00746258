from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gateway.deadline import deadline_seconds
from gateway.errors import InvalidRequest


def deadline(value: str, setting: float = 600) -> float:
    return deadline_seconds(Headers({"X-Request-Timeout": value}), setting)


def test_without_the_header_the_setting_holds() -> None:
    assert deadline_seconds(Headers({}), 600) == 600


@pytest.mark.parametrize(
    ("value", "seconds"), [("1", 1), ("0.5", 0.5), ("599.999", 599.999), ("600", 600), ("9999", 600)]
)
def test_a_client_may_only_shorten_it(value: str, seconds: float) -> None:
    assert deadline(value) == seconds


@given(
    st.decimals(min_value=Decimal("0.001"), max_value=10**9, places=3),
    st.floats(0.001, 1e9, allow_nan=False, allow_infinity=False),
)
def test_it_is_never_longer_than_the_setting_nor_than_asked(asked: Decimal, setting: float) -> None:
    assert 0 < deadline(str(asked), setting) <= min(float(asked), setting)


@pytest.mark.parametrize(
    "value",
    ["", "0", "0.0", "-1", "nan", "inf", "1e3", "1_0", "+1", " 1", "1,5", "1.", ".5", "30s", "٣", "9" * 400],
)
def test_anything_else_is_refused_and_the_header_named(value: str) -> None:
    with pytest.raises(InvalidRequest, match="x-request-timeout") as refused:
        deadline_seconds({"x-request-timeout": value}, 600)
    assert (refused.value.status, refused.value.param) == (400, "x-request-timeout")
    assert "greater than 0" in refused.value.message


@given(st.text())
def test_whatever_stands_there_it_is_a_number_or_a_refusal(value: str) -> None:
    seconds = 1.0
    with contextlib.suppress(InvalidRequest):
        seconds = deadline_seconds({"x-request-timeout": value}, 600)
    assert 0 < seconds <= 600
