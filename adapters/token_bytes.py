"""The bytes behind each token of a tokenizer.

Two families cover the models that vLLM serves: byte-level BPE writes each byte as one printable code
point (GPT-2's table, github.com/openai/gpt-2, src/encoder.py), SentencePiece writes a space as ``▁`` and
a byte that is no character of its own as ``<0xNN>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer as Backend

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


def token_bytes(backend: Backend) -> Callable[[int], bytes]:
    """A function from a token's id to its bytes: nothing for special tokens and for ids without a token.

    Bytes of tokens that follow each other join to the bytes of the text; a SentencePiece tokenizer's
    first one begins with a blank that the text does not have.
    """
    special = {id_ for id_, token in backend.get_added_tokens_decoder().items() if token.special}
    added = {id_: token.content for id_, token in backend.get_added_tokens_decoder().items()}
    piece_bytes = _byte_level if _is_byte_level(backend) else _sentencepiece

    @cache
    def bytes_of(token_id: int) -> bytes:
        if token_id in special:
            return b""
        if token_id in added:
            return added[token_id].encode()
        return piece_bytes(backend.id_to_token(token_id) or "")

    return bytes_of


def _is_byte_level(backend: Backend) -> bool:
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])


def _sentencepiece(piece: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode()


def _byte_level(piece: str) -> bytes:
    table = _byte_of_code_point()
    return bytes(table[ord(character)] for character in piece if ord(character) in table)


@cache
def _byte_of_code_point() -> dict[int, int]:
    """GPT-2's table turned around: printable bytes stand for themselves, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + index: byte for index, byte in enumerate(others)}
