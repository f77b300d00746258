"""The bytes of tokens, for both families of tokenizers."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.strategies import texts

tokenizers = pytest.importorskip("tokenizers")

from adapters.token_bytes import token_bytes  # noqa: E402
from tests.adapters.test_chat_template import TOKENIZER  # noqa: E402

BACKEND = TOKENIZER.backend_tokenizer
BYTES_OF = token_bytes(BACKEND)


@given(texts)
def test_the_bytes_of_a_byte_level_text_join_to_it(text: str) -> None:
    ids = BACKEND.encode(text, add_special_tokens=False).ids
    plain = [id_ for id_ in ids if id_ not in BACKEND.get_added_tokens_decoder()]
    if plain == ids:
        assert b"".join(map(BYTES_OF, ids)) == text.encode()


def test_special_tokens_and_unknown_ids_have_none() -> None:
    specials = [id_ for id_, token in BACKEND.get_added_tokens_decoder().items() if token.special]
    assert specials
    assert {BYTES_OF(id_) for id_ in [*specials, 10**6]} == {b""}
