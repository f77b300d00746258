"""What is known of how long answers take, and what follows from it for those who wait."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from gateway.admission.queue import Work
from gateway.admission.ticket import Account
from gateway.errors import RETRY_AFTER_SECONDS

# Of the mean over all, and of one caller's: the part that the latest answer has.
OF_ALL = 1 / 32
OF_ONE = 1 / 8

# Tokens of an answer before any has ended.
FIRST_GUESS = 256.0

# OpenAI's SDKs wait no longer when they are told to (60 s in older ones), and try no more then.
MOST_RETRY_SECONDS = 60.0
LEAST_RETRY_SECONDS = 0.05

# Whoever is told when to come again had better find the place free.
MARGIN = 1.1


class Pace:
    """Exponentially weighted means over the answers that have ended."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._tokens = 0.0
        self._mean_answer = FIRST_GUESS

    @property
    def seconds_per_token(self) -> float | None:
        """How long a place is held for each token of its answer; None before any answer has ended."""
        return self._seconds / self._tokens if self._tokens else None

    def ended(self, account: Account, seconds: float, tokens: float) -> None:
        """A place was held so long for answers of so many tokens each."""
        if self._tokens:
            self._mean_answer += (tokens - self._mean_answer) * OF_ALL
        else:
            self._mean_answer = tokens
        self._seconds += seconds - self._seconds * OF_ALL
        self._tokens += max(tokens, 1.0) - self._tokens * OF_ALL
        if account.mean_answer is None:
            account.mean_answer = tokens
        else:
            account.mean_answer += (tokens - account.mean_answer) * OF_ONE

    def answer_tokens(self, account: Account, work: Work) -> int:
        """Of each of its answers: as long as the caller's are, or everybody's, and at most what was asked
        for."""
        mean = self._mean_answer if account.mean_answer is None else account.mean_answer
        return math.ceil(min(work.completion_tokens / work.requests, mean))


def seconds_until_free(places: float, running: Iterable[tuple[float, int]], again: float) -> float:
    """Until so many places have become free, one after the other.

    ``running``: for each that runs, when it is expected to end, in seconds from now, and its places. One that
    should have ended may go on as long as it is late. ``again``: how long those run that take the places.
    """
    ends = sorted((abs(left), need) for left, need in running)
    total = sum(need for _, need in ends)
    if places <= 0 or not total:
        return 0.0
    rounds, position = divmod(places, total)
    if not position:
        rounds, position = rounds - 1, float(total)
    for left, need in ends:
        position -= need
        if position <= 0:
            return left + rounds * again
    raise AssertionError("more than all places")


def still_promised(promised: list[float], now: float) -> int:
    """How many of those who were told when to come again are still to come; forgets the others.

    Each is told a later time than those before him: there is room for each when he comes, and they don't
    come all at once.
    """
    while promised and promised[0] <= now:
        heapq.heappop(promised)
    return len(promised)


def retry_after(seconds: float | None) -> float:
    """What to tell whoever finds room in so many seconds; None: nobody knows."""
    if seconds is None:
        return RETRY_AFTER_SECONDS
    return min(max(seconds * MARGIN, LEAST_RETRY_SECONDS), MOST_RETRY_SECONDS)
