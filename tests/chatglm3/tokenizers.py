"""The tokenizers that tests of ChatGLM3 run with: the published one where it is at hand, and a small one."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.chatglm3_model import ensure_tokenizer
from tests.chatglm3.checkpoint import padded_vocab_size, real_tokenizer_model, small_tokenizer_model

VECTORS = Path(__file__).parents[2].parent / "shared" / "data" / "chatglm3" / "vectors.json"

needs_published = pytest.mark.skipif(
    real_tokenizer_model() is None, reason="the published tokenizer.model is not at hand"
)


@dataclass(frozen=True)
class BackendOnly:
    """As much of a tokenizer as ChatGLM3's format needs."""

    backend_tokenizer: Any


@cache
def chatglm3_tokenizer(published: bool) -> Any:
    """The fast tokenizer, as the gateway builds it."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        folder = Path(name)
        source = real_tokenizer_model() if published else small_tokenizer_model(folder)
        assert source is not None
        if source.parent != folder:
            shutil.copy(source, folder / "tokenizer.model")
        size = padded_vocab_size(SentencePieceProcessor(model_file=str(source)).get_piece_size())
        config = {"model_type": "chatglm", "padded_vocab_size": size}
        (folder / "config.json").write_text(json.dumps(config))
        built = ensure_tokenizer(folder, folder / "data")
        return BackendOnly(Tokenizer.from_file(str(built / "tokenizer.json")))


def vectors(kind: str) -> list[dict[str, Any]]:
    """The published vectors of one kind; none where they are not at hand."""
    if not VECTORS.exists():
        return []
    return [item for item in json.loads(VECTORS.read_text())["items"] if item["kind"] == kind]


@cache
def sentencepiece_model(published: bool) -> Any:
    """SentencePiece itself, on the same vocabulary."""
    from sentencepiece import SentencePieceProcessor

    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        source = real_tokenizer_model() if published else small_tokenizer_model(Path(name))
        return SentencePieceProcessor(model_proto=source.read_bytes() if source else b"")
