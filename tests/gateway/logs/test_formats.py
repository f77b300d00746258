"""Whatever is logged, a line is one line, and of JSON one object."""

from __future__ import annotations

import json
import logging
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs.current_request import logged_for, mark_request
from gateway.logs.formats import (
    LONGEST_EXCEPTION,
    LONGEST_MESSAGE,
    JsonFormatter,
    TextFormatter,
    without_secrets,
)
from tests.strategies import NASTY

JSON, TEXT = JsonFormatter(), TextFormatter()

# Also halves of surrogate pairs, as bytes that are no UTF-8 become in Python.
wild = st.text(st.characters()) | st.text(alphabet=NASTY + "\ud800\udfff\udc80")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | wild
    | st.binary(max_size=9)
    | st.builds(int.__pow__, st.just(10), st.just(5000)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(wild, inner, max_size=3),
    max_leaves=8,
)


class Told:
    """A message with fields of its own."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def fields(self) -> dict[str, Any]:
        return self._fields


class Unsayable:
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


def record(message: object, *args: object, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("gateway.test", logging.INFO, "file.py", 1, message, args, exc_info)


def refuse(constant: str) -> None:
    pytest.fail(f"{constant} is not JSON")


def read(line: str) -> dict[str, Any]:
    """A line as the strictest reader takes it."""
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    found = json.loads(line.encode("utf-8"), parse_constant=refuse)
    assert isinstance(found, dict)
    return found


@given(wild, st.lists(values, max_size=2))
def test_any_message_is_one_object(message: str, args: list[Any]) -> None:
    found = read(JSON.format(record(message, *args)))
    assert found.keys() == {"time", "level", "logger", "message"}


@given(wild)
def test_text_comes_through_as_it_was(message: str) -> None:
    found = read(JSON.format(record("%s", message)))["message"]
    wanted = "".join("�" if 0xD800 <= ord(one) <= 0xDFFF else one for one in message)
    assert found == wanted.rstrip() or "://" in message


@given(st.dictionaries(wild, values, max_size=4))
def test_any_fields_are_one_object(fields: dict[str, Any]) -> None:
    read(JSON.format(record(Told(fields))))


@given(wild, st.lists(values, max_size=2))
def test_of_text_only_the_first_line_looks_like_a_record(message: str, args: list[Any]) -> None:
    first, *others = TEXT.format(record(message, *args)).split("\n")
    assert first.isprintable()
    assert " INFO    gateway.test: " in first
    assert all(line.startswith("    ") and line.isprintable() for line in others)


@pytest.mark.parametrize("formatter", [JSON, TEXT])
def test_what_can_not_be_said_is_a_line_all_the_same(formatter: logging.Formatter) -> None:
    for message, args in (("%d", ("x",)), ("%s", (Unsayable(),)), (Unsayable(), ()), ("%s %s", (1,))):
        assert "gateway.test" in formatter.format(record(message, *args))


def test_numbers_that_json_does_not_have_are_null() -> None:
    fields = {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}}
    found = read(JSON.format(record(Told(fields))))
    assert (found["a"], found["b"], found["c"]) == (None, [None, 1.5], {"d": None})


def test_the_time_is_rfc_3339_in_utc_with_milliseconds() -> None:
    one = record("x")
    one.created = 1_767_225_599.9996
    assert read(JSON.format(one))["time"] == "2025-12-31T23:59:59.999Z"


@pytest.mark.parametrize("formatter", [JSON, TEXT])
def test_an_exception_is_told_to_its_end_and_not_without_bound(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("x" * 2 * LONGEST_EXCEPTION + "the end of it")
    except ValueError:
        line = formatter.format(record("m" * 2 * LONGEST_MESSAGE, exc_info=sys.exc_info()))
    assert "the end of it" in line
    assert len(line) < LONGEST_EXCEPTION + LONGEST_MESSAGE + 500


SECRETS = [
    ("a key cgw_abcdefgh" + "S" * 43 + " of ours", "S" * 43),
    ("sk-proj-" + "S" * 40, "S" * 40),
    ("postgresql://user:S3cret@host/db?x=1", "S3cret"),
    ('{"url": "https://u:S3cret@h:8000/v1"}', "S3cret"),
    ("postgresql://u:S3c/S3cret@h/db", "S3c"),
    ("postgresql://u:S3c@S3cret@h/db", "S3c"),
    ("postgresql://h/db?sslmode=require&password=S3cret", "S3cret"),
    ("connection failed: host=h PASSWORD = 'S3c ret\\'S3cret' user=u", "S3c"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
@pytest.mark.parametrize("formatter", [JSON, TEXT])
def test_keys_and_passwords_are_masked_wherever_they_stand(
    formatter: logging.Formatter, text: str, secret: str
) -> None:
    for one in (record(text), record("%s", text), record(Told({"error": text}))):
        assert secret not in formatter.format(one)
    try:
        raise ValueError(text)
    except ValueError:
        assert secret not in formatter.format(record("x", exc_info=sys.exc_info()))


# Whatever is no space: of a URL with one in it nobody knows where it ends, and none is taken as a setting.
printable = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=4, max_size=20)


@given(
    printable,
    st.sampled_from(
        [
            "postgresql://u:{}@h/db?x=1 is away",
            "a,http://me:{}@h",
            "(postgresql://h:1/db?user=a@b&sslpassword={})",
            "host=h password={}",
        ]
    ),
)
def test_no_password_is_logged_whatever_is_in_it(password: str, place: str) -> None:
    text = place.replace("{}", f"hunter{password}hunter")
    for line in (
        JSON.format(record(Told({"message": text, "errors": [{"of": text}]}))),
        JSON.format(record("%s", text)),
        TEXT.format(record("%s", text)),
    ):
        assert "hunter" not in line
        assert "***" in line


@pytest.mark.parametrize("text", ["http://h/a@b", "task-force", "cgw_", "see https://example.com: a@b"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_records_of_a_request_have_its_ids_and_later_ones_have_not() -> None:
    one, two, later = record("x"), record("y"), record("z")
    with logged_for({"request_id": "req_1", "trace_id": "abc"}):
        mark_request(one)
        with logged_for({"request_id": "req_2"}):
            mark_request(two)
    mark_request(later)
    lines = [read(JSON.format(each)) for each in (one, two, later)]
    assert [line.get("request_id") for line in lines] == ["req_1", "req_2", None]
    assert [line.get("trace_id") for line in lines] == ["abc", None, None]
    assert TEXT.format(one).endswith("x [req_1]")
