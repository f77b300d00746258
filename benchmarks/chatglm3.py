"""ChatGLM3's tokenizer and reader, on one core: ``python -m benchmarks.chatglm3 FOLDER``.

FOLDER has tokenizer.model. Side by side in one run: the gateway's encoding and SentencePiece's, the
gateway's reader and the stream decoder of the ``tokenizers`` library, which vLLM uses for a fast tokenizer.
The slow tokenizer that the model's authors publish does not run with today's transformers; its figure was
measured by others and stands in docs/chatglm3.md.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from adapters.chat_format import Conversation
from adapters.chatglm3.chat_format import ChatGLM3Format
from engine.base import ChatMessage, Delta, FinishReason, Tool
from engine.chatglm3_model import ensure_tokenizer

ROUNDS = 7
ROUND_SECONDS = 0.2

SHORT = "今天北京的天气怎么样？"
LONG = "人工智能是研究使计算机来模拟人的某些思维过程和智能行为的学科，Python 3.11 is used here. " * 8
ANSWER = "你好👋！我是人工智能助手 ChatGLM3-6B，很高兴见到你，欢迎问我任何问题。\n" * 12


def microseconds(work: Callable[[], object]) -> float:
    """Median over rounds of the time of one call."""
    work()
    found = []
    for _ in range(ROUNDS):
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < ROUND_SECONDS:
            work()
            calls += 1
        found.append((time.perf_counter() - began) / calls * 1e6)
    return statistics.median(found)


def read_stream(chat_format: ChatGLM3Format, ids: Sequence[int]) -> str:
    """The gateway's reader, a token at a time."""
    reader = chat_format.render(Conversation([ChatMessage("user", SHORT)])).new_reader()
    last = len(ids) - 1
    ended: FinishReason = "stop"
    return "".join(
        reader.read(Delta("", [token_id], ended if index == last else None)).text
        for index, token_id in enumerate(ids)
    )


def library_stream(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What vLLM does for each token of a fast tokenizer."""
    stream = DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(tokenizer, token_id) or "" for token_id in ids)


def measure(folder: Path, data_dir: Path) -> list[tuple[str, float, float | None]]:
    """What, the gateway's microseconds, the other's."""
    reference = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    began = time.perf_counter()
    built = ensure_tokenizer(folder, data_dir)
    built_in = (time.perf_counter() - began) * 1e6
    tokenizer = Tokenizer.from_file(str(built / "tokenizer.json"))
    backend: Any = SimpleNamespace(backend_tokenizer=tokenizer)
    chat_format = ChatGLM3Format(backend)
    ids = [*chat_format.plain_ids("\n"), *chat_format.plain_ids(ANSWER), 2]
    assert read_stream(chat_format, ids) == ANSWER
    turns = [
        ChatMessage("assistant" if index % 2 else "user", SHORT if index % 2 else LONG) for index in range(9)
    ]
    tool = Tool("get_weather", {"name": "get_weather", "parameters": {"type": "object", "properties": {}}})
    results: list[tuple[str, float, float | None]] = [("build the tokenizer (once)", built_in, None)]
    for name, text in (("short question", SHORT), (f"{len(LONG)} characters", LONG)):
        assert list(chat_format.plain_ids(text)) == reference.encode(text)
        ours = microseconds(lambda text=text: chat_format.plain_ids(text))  # type: ignore[misc]
        theirs = microseconds(lambda text=text: reference.encode(text))  # type: ignore[misc]
        results.append((f"encode: {name}", ours, theirs))
    for name, conversation in (
        ("one question", Conversation([ChatMessage("user", SHORT)])),
        ("one question, one tool", Conversation([ChatMessage("user", SHORT)], [tool], [tool])),
        ("nine turns", Conversation(turns)),
    ):
        ours = microseconds(lambda asked=conversation: chat_format.render(asked))  # type: ignore[misc]
        results.append((f"prompt: {name}", ours, None))
    ours = microseconds(lambda: read_stream(chat_format, ids)) / len(ids)
    theirs = microseconds(lambda: library_stream(tokenizer, ids)) / len(ids)
    results.append((f"read a stream, per token ({len(ids)} tokens)", ours, theirs))
    return results


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(Path(sys.argv[1]) / "tokenizer.model", folder)
        (folder / "config.json").write_text('{"model_type": "chatglm", "padded_vocab_size": 65024}')
        print(f"{'':45}{'gateway us':>12}{'library us':>12}{'ratio':>8}")
        for what, ours, theirs in measure(folder, folder):
            other = f"{theirs:12.1f}{ours / theirs:8.2f}" if theirs is not None else ""
            print(f"{what:45}{ours:12.1f}{other}")


if __name__ == "__main__":
    main()
