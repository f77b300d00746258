from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.message_ids import message_id
from tests.strategies import texts


@given(st.uuids(), st.sampled_from(["", "chatcmpl-", "cmpl-"]))
def test_every_way_to_write_an_id_is_known(id_: UUID, prefix: str) -> None:
    for text in (id_.hex, str(id_), id_.hex.upper()):
        assert message_id(prefix + text) == id_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chatcmpl-",
        "a" * 31,
        "a" * 33,
        "g" * 32,
        "{01234567-89ab-cdef-0123-456789abcdef}",
        "urn:uuid:01234567-89ab-cdef-0123-456789abcdef",
        "0123-456789abcdef0123456789abcdef",
        "chatcmpl-chatcmpl-" + "a" * 32,
        "a" * 32 + "\n",
        "٠" * 32,
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert message_id(text) is None


@given(texts)
def test_any_text_is_looked_at(text: str) -> None:
    assert message_id(text) is None
