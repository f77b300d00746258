"""Reads a SentencePiece model file: its pieces, and what decides how text is read.

By hand: sentencepiece and transformers each bring a generated reader, and in one process the second to be
imported fails. Source: sentencepiece_model.proto of SentencePiece (github.com/google/sentencepiece).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """An entry of the vocabulary; its id is its place."""

    text: str
    score: float
    type: int


NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5


class Setting(NamedTuple):
    """A field of the file that changes how text is read."""

    message: int
    number: int
    default: int | bytes
    chatglm3: int | bytes
    meaning: str


SETTINGS = (
    Setting(TRAINER, 3, 1, 2, "BPE"),
    Setting(TRAINER, 35, 0, 1, "byte fallback"),
    Setting(TRAINER, 24, 0, 0, "whitespace in front of words"),
    Setting(NORMALIZER, 2, b"", b"", "the identity normalizer"),
    Setting(NORMALIZER, 3, 1, 1, "a dummy prefix"),
    Setting(NORMALIZER, 4, 1, 0, "whitespace kept as it is"),
    Setting(NORMALIZER, 5, 1, 1, "escaped whitespace"),
    Setting(DENORMALIZER, 2, b"", b"", "text given back as it is"),
)


def parse(content: bytes) -> tuple[list[Piece], dict[Setting, int | bytes]]:
    """Pieces and settings of a ModelProto. Raises ValueError for anything else."""
    pieces: list[Piece] = []
    settings: dict[Setting, int | bytes] = {setting: setting.default for setting in SETTINGS}
    for message, value in fields(content):
        if not isinstance(value, bytes):
            continue
        if message == PIECES:
            pieces.append(piece_of(value))
        elif message in (TRAINER, NORMALIZER, DENORMALIZER):
            found = dict(fields(value))
            for setting in SETTINGS:
                if setting.message == message and setting.number in found:
                    settings[setting] = found[setting.number]
    if not pieces:
        raise ValueError("no pieces")
    return pieces, settings


def piece_of(message: bytes) -> Piece:
    found = dict(fields(message))
    text, score, type_ = found.get(1), found.get(2, bytes(4)), found.get(3, NORMAL)
    if not (isinstance(text, bytes) and text and isinstance(score, bytes) and isinstance(type_, int)):
        raise ValueError("not a piece")
    try:
        return Piece(text.decode(), struct.unpack("<f", score)[0], type_)
    except struct.error as error:
        raise ValueError("not a score") from error


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffers message; numbers of fixed size stay bytes.

    Raises ValueError for what is no such message.
    """
    at = 0
    while at < len(message):
        head, at = varint(message, at)
        number, wire_type = head >> 3, head & 7
        if wire_type == 0:
            value, at = varint(message, at)
            yield number, value
            continue
        if wire_type == 2:
            size, at = varint(message, at)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if not number or at + size > len(message):
            raise ValueError("cut short")
        yield number, message[at : at + size]
        at += size


def varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends. Raises ValueError where there is none."""
    number = 0
    for index, byte in enumerate(message[at : at + 10]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, at + index + 1
    raise ValueError("cut short")
