from __future__ import annotations

import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip("tokenizers")

from adapters.chatglm3.chat_format import ChatGLM3Format
from adapters.chatglm3.pieces import Pieces
from tests.chatglm3.tokenizers import chatglm3_tokenizer, needs_published

BOTH = [pytest.param(True, marks=needs_published, id="published"), pytest.param(False, id="small")]


@pytest.fixture(params=BOTH, scope="session")
def pieces(request: pytest.FixtureRequest) -> Pieces:
    """The vocabulary."""
    return Pieces(chatglm3_tokenizer(request.param).backend_tokenizer)


@pytest.fixture(params=BOTH, scope="session")
def chat_format(request: pytest.FixtureRequest) -> ChatGLM3Format:
    """The whole format."""
    return ChatGLM3Format(chatglm3_tokenizer(request.param))
