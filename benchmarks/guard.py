"""What a guard list costs a token: ``python -m benchmarks.guard``.

One piece of a streamed answer read by one rule that finds nothing, in microseconds, on one core; the best of
five times.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator

from adapters.chat_format import Piece
from adapters.guard import Guard

WORDS = 1_000
PIECES = 20_000
ROUNDS = 5


def word(random_: random.Random) -> str:
    """Of 4 to 9 letters."""
    return "".join(random_.choices("etaoinshrdlucmfwyp", k=random_.randint(4, 9)))


def chinese(random_: random.Random, length: int) -> str:
    """So many characters."""
    return "".join(chr(random_.randint(0x4E00, 0x9FA5)) for _ in range(length))


def cases() -> Iterator[tuple[str, dict[str, object], str, int]]:
    """A rule, an answer, and how many characters a token has."""
    random_ = random.Random(1)
    # With digits in them, so that no word of the text is one.
    words = [f"{word(random_)}{number}" for number in range(WORDS)]
    text = " ".join(word(random_) for _ in range(PIECES))
    yield f"{WORDS} words", {"words": words}, text, 4
    triples = [chinese(random_, 3) for _ in range(WORDS)]
    yield f"{WORDS} Chinese words", {"words": triples}, chinese(random_, 2 * PIECES), 2
    yield "pattern of a card's number", {"pattern": r"\b\d{13,16}\b"}, text, 4
    yield "pattern of an e-mail address", {"pattern": r"\b[\w.+-]+@[\w-]+\.[\w.]+\b"}, text, 4


def microseconds(guard: Guard, pieces: list[str]) -> float:
    """For one piece."""
    best = float("inf")
    for _ in range(ROUNDS):
        output = guard.output()
        assert output is not None
        began = time.perf_counter()
        for piece in pieces:
            output.read(Piece(piece), last=False)
        best = min(best, time.perf_counter() - began)
    return best / len(pieces) * 1e6


def main() -> None:
    """Print a line for each rule."""
    for name, rule, text, size in cases():
        guard = Guard.from_yaml(json.dumps({"rules": [{"name": "rule", "action": "mask"} | rule]}))
        pieces = [text[at : at + size] for at in range(0, PIECES * size, size)]
        print(f"{name}: {microseconds(guard, pieces):.1f} µs")


if __name__ == "__main__":
    main()
