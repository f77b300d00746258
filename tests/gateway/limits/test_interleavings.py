"""No interleaving of requests, cancels and failures passes a limit, or keeps what it has not used."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.errors import InvalidRequest, RateLimitExceeded
from gateway.limits.limiter import Reservation
from gateway.limits.window import COARSE, MINUTE, SECOND
from persistence.caller_limits import Limits
from tests.gateway.limits.moments import OTHER_KEY, Moments, caller, limiter_of

KEY_LIMITS = Limits(requests_per_minute=6, tokens_per_minute=100, tokens_per_day=400, concurrent_requests=3)
USER_LIMITS = Limits(requests_per_minute=8, tokens_per_minute=150, tokens_per_day=500, concurrent_requests=4)


@dataclass
class Asked:
    """A request that was let in; ``tokens``: what it has reserved, and when it has ended, used."""

    at: int
    key: int
    tokens: int
    reservation: Reservation
    running: bool = True


def run(coroutine: object) -> Reservation:
    """A coroutine that waits for nothing: that is what makes it exact."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as stop:
        result: Reservation = stop.value
        return result
    raise AssertionError("it waits")


class Callers(RuleBasedStateMachine):
    """Two keys of one user, and a log of all that was let in, kept in the plainest way."""

    def __init__(self) -> None:
        super().__init__()
        self.moments = Moments()
        self.limiter = limiter_of(self.moments)
        self.callers = [caller(KEY_LIMITS, USER_LIMITS), caller(KEY_LIMITS, USER_LIMITS, OTHER_KEY)]
        self.log: list[Asked] = []
        self.day_began = self.moments.clock.day

    @rule(key=st.integers(0, 1), tokens=st.integers(1, 160))
    def ask(self, key: int, tokens: int) -> None:
        try:
            reservation = run(self.limiter.reserve(self.callers[key], tokens))
        except InvalidRequest:
            assert tokens > 100
        except RateLimitExceeded as error:
            self.is_true(key, tokens, int(error.headers["retry-after-ms"]), error.message)
        else:
            self.log.append(Asked(self.moments.now, key, tokens, reservation))

    def is_true(self, key: int, tokens: int, wait_ms: int, message: str) -> None:
        """A refusal has its reason: one limit would be passed now, or was within a COARSE moment."""
        assert wait_ms > 0
        now = self.moments.now
        for log, limits in ((self.of(key), KEY_LIMITS), (self.log, USER_LIMITS)):
            recent = [one for one in log if one.at > now - MINUTE - COARSE]
            today = [one for one in log if self.day_of(one.at) == self.day_of(now)]
            if (
                len(recent) + 1 > (limits.requests_per_minute or 0)
                or total(recent) + tokens > (limits.tokens_per_minute or 0)
                or total(today) + tokens > (limits.tokens_per_day or 0)
                or sum(one.running for one in log) + 1 > (limits.concurrent_requests or 0)
            ):
                return
        raise AssertionError(f"refused for nothing: {message}")

    @precondition(lambda self: any(one.running for one in self.log))
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    def end(self, data: st.DataObject, share: float) -> None:
        """By itself, or by a cancel or a failure, before the engine or after."""
        one = data.draw(st.sampled_from([one for one in self.log if one.running]))
        one.running = False
        used = round(one.tokens * share)
        one.reservation.settle(used)
        if used:
            one.tokens = used
        else:
            self.log.remove(one)

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.25, 1.0, 20.0, 59.9, 60.0, 20_000.0]))
    def wait(self, seconds: float) -> None:
        self.moments.wait(seconds)

    @invariant()
    def nothing_is_passed(self) -> None:
        """In the minute that ends now. Each minute in which something is let in ends in one that was looked
        at, and one in which nothing is has no more than the one before."""
        for log, limits in ((self.of(0), KEY_LIMITS), (self.of(1), KEY_LIMITS), (self.log, USER_LIMITS)):
            now = self.moments.now
            minute = [one for one in log if one.at > now - MINUTE]
            today = [one for one in log if self.day_of(one.at) == self.day_of(now)]
            assert len(minute) <= (limits.requests_per_minute or 0)
            assert total(minute) <= (limits.tokens_per_minute or 0)
            assert total(today) <= (limits.tokens_per_day or 0)
            assert sum(one.running for one in log) <= (limits.concurrent_requests or 0)

    def teardown(self) -> None:
        """When all have ended nothing is left but what was used."""
        for one in self.log:
            if one.running:
                one.reservation.settle(one.tokens)
        now = self.moments.now
        for key, caller_ in enumerate(self.callers):
            (of_key, _), (of_user, _) = self.limiter.accounts.of(caller_, now, self.moments.clock.day)
            for account, log in ((of_key, self.of(key)), (of_user, self.log)):
                assert not account.running
                assert account.day_tokens == total(one for one in log if self.day_of(one.at) == account.day)
                exact = total(one for one in log if one.at > now - MINUTE)
                coarse = total(one for one in log if one.at > now - MINUTE - COARSE)
                assert exact <= account.window.tokens <= coarse
        self.moments.wait(60.0)
        for caller_ in self.callers:
            for account, _ in self.limiter.accounts.of(caller_, self.moments.now, self.moments.clock.day):
                assert (account.window.tokens, account.window.requests, len(account.window)) == (0, 0, 0)

    def of(self, key: int) -> list[Asked]:
        return [one for one in self.log if one.key == key]

    def day_of(self, at: int) -> int:
        clock, now = self.moments.clock, self.moments.now
        return int((clock.utc() - (now - at) / SECOND) // 86_400)


def total(log: object) -> int:
    return sum(one.tokens for one in log)  # type: ignore[attr-defined]


TestCallers = Callers.TestCase
TestCallers.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
