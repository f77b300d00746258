"""Ids and text of ChatGLM3's tokenizer.

Ids of the published vocabulary: ``<unk>`` 0, ``<s>`` 1, ``</s>`` 2, the bytes 3 to 258, pieces to 64788,
then the nine control tokens. The ids of the control tokens are read from the tokenizer, so that a
vocabulary of another size works as well.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as Backend

from adapters.control_text import without_added_tokens
from adapters.token_bytes import token_bytes

END_OF_SEQUENCE = 2

# The one blank that is not SentencePiece's own.
_BLANK_BYTE = 3 + 0x20

# SentencePiece gives one U+FFFD for each byte that is part of no character; Python's decoder one for
# all bytes of a broken character together.
_ONE_PER_BYTE = "chatglm3-one-per-byte"


def _one_per_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_ONE_PER_BYTE, _one_per_byte)
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The ids of the control tokens that a prompt is made of."""

    gmask: int
    sop: int
    system: int
    user: int
    assistant: int
    observation: int

    @property
    def stops(self) -> tuple[int, int, int]:
        """What ends an answer: the end of the sequence, the user's turn, a tool's turn."""
        return END_OF_SEQUENCE, self.user, self.observation


class Pieces:
    """The vocabulary: text to ids, ids to bytes. No text ever becomes a control token.

    ``silent`` are the control tokens that end nothing, ``<unk>`` and ``<s>`` among them.
    """

    def __init__(self, backend: Backend) -> None:
        self._plain = without_added_tokens(backend)
        added = {token.content: id_ for id_, token in backend.get_added_tokens_decoder().items()}
        self.control = ControlTokens(
            gmask=added["[gMASK]"],
            sop=added["sop"],
            system=added["<|system|>"],
            user=added["<|user|>"],
            assistant=added["<|assistant|>"],
            observation=added["<|observation|>"],
        )
        self.silent = {id_ for id_ in added.values() if id_ not in self.control.stops}
        bytes_of = token_bytes(self._plain)
        # The first three are <unk>, <s> and </s>.
        first_control = min(id_ for id_ in added.values() if id_ > END_OF_SEQUENCE)
        self._bytes = [b""] * 3 + [bytes_of(id_) for id_ in range(3, first_control)]
        self._control_text = {id_: text.encode() for text, id_ in added.items()}

    def encode(self, text: str) -> list[int]:
        """As SentencePiece does: the ids of a text begin with a blank that it does not have."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def bytes_of(self, token_id: int) -> bytes:
        """A token's bytes: none for control tokens and for ids that the vocabulary does not have."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def shown_bytes_of(self, token_id: int) -> bytes:
        """As ``bytes_of``, but a control token has its text."""
        return self._control_text.get(token_id) or self.bytes_of(token_id)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, control tokens included but for the first three, as the model's authors decode;
        the blank that every text begins with is not part of it."""
        pieces = [self.shown_bytes_of(id_) if id_ > END_OF_SEQUENCE else b"" for id_ in token_ids]
        if token_ids and token_ids[0] != _BLANK_BYTE:
            pieces[0] = pieces[0].removeprefix(b" ")
        return b"".join(pieces).decode(errors=_ONE_PER_BYTE)


class TextDecoder:
    """Decodes ids as they come; a character whose bytes are spread over tokens waits for the last.

    ``bytes_of`` gives a token's bytes.
    """

    __slots__ = ("_bytes_of", "_decoder")

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = _Utf8Decoder(_ONE_PER_BYTE)

    def more(self, token_ids: Iterable[int]) -> str:
        """The text that ``token_ids`` complete; a leading blank is kept."""
        return self._decoder.decode(b"".join(map(self._bytes_of, token_ids)))

    def end(self) -> str:
        """What is left of a character that did not end; the decoder can be used anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
