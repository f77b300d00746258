"""What unmodified clients ask the demo model, and what its row has to say then."""

from __future__ import annotations

from typing import Any

from tests.end_to_end.served import Gateway

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "max_tokens": 32,
}


def check_row(demo: Gateway, answer_id: str, text: str, usage: Any) -> None:
    """The row has the text that the client got, and the counts of ``usage``."""
    row = demo.row(answer_id)
    assert "Paris" in text
    assert row["query"] == QUESTION
    assert row["response"] == text
    assert (row["status"], row["model"]) == ("completed", MODEL)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert 0 < row["ttft_ms"] <= row["duration_ms"]
