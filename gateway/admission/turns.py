"""Whose turn it is: the callers against each other, by the tokens that each is served.

Each caller has a counter of the tokens he was served, divided by his weight: the virtual token counter of
Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024). Next is the one whose counter will be
the least after his request, as in self-clocked fair queueing (Golestani, "A self-clocked fair queueing scheme
for broadband applications", INFOCOM 1994). That, and not the least counter before it, for two reasons: of two
callers with the same counter the one who asks for less goes first; and an endless row of new callers keeps
nobody waiting for ever, since each of them moves the clock on.

A request is charged with what it is expected to use when it gets its places; what it has really used corrects
that when it leaves. The clock is the counter of whoever was let in last. A caller without requests in the
queue comes back at the clock, if his counter is behind it: nobody saves up what he has not used.
"""

from __future__ import annotations

from collections import OrderedDict
from operator import attrgetter

from gateway.access.caller import Caller
from gateway.admission.ticket import Account, Ticket

# Above so many, callers of whom nothing waits or runs are forgotten, the longest unseen first.
MOST_KEPT = 10_000

_finish = attrgetter("finish")


class Turns:
    """All callers, and what waits of each. ``requests``, ``places`` and ``answer_tokens`` are sums over all
    that waits."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._in_line: dict[str, Account] = {}
        self._clock = 0.0
        self.requests = 0
        self.places = 0
        self.answer_tokens = 0

    @property
    def callers(self) -> int:
        """How many have something waiting."""
        return len(self._in_line)

    def account(self, caller: Caller) -> Account:
        """The caller's, at the clock at least."""
        name = caller.name
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(name, self._clock)
            self._forget()
        else:
            self._accounts.move_to_end(name)
        account.weight = caller.weight
        if not account.waiting:
            account.counter = max(account.counter, self._clock)
        return account

    def _forget(self) -> None:
        if len(self._accounts) > MOST_KEPT:
            name, account = next(iter(self._accounts.items()))
            if account.held or account.waiting:
                self._accounts.move_to_end(name)
            else:
                del self._accounts[name]

    def join(self, ticket: Ticket) -> None:
        """It waits, behind what its caller has waiting already."""
        account = ticket.account
        ticket.waits = True
        account.waiting.append(ticket)
        account.waiting_places += ticket.need
        account.waiting_cost += ticket.cost
        self.requests += 1
        self.places += ticket.need
        self.answer_tokens += ticket.answer_tokens
        self._in_line[account.name] = account
        account.rank()

    def drop(self, ticket: Ticket) -> None:
        """It waits no more, if it has."""
        if not ticket.waits:
            return
        account = ticket.account
        ticket.waits = False
        if account.waiting[0] is ticket:
            account.waiting.popleft()
        else:
            account.waiting.remove(ticket)
        account.waiting_places -= ticket.need
        account.waiting_cost -= ticket.cost
        self.requests -= 1
        self.places -= ticket.need
        self.answer_tokens -= ticket.answer_tokens
        if not account.waiting:
            del self._in_line[account.name]
        account.rank()

    def first(self, *, without_place: bool = False) -> Ticket | None:
        """Whose turn it is; or only of those who have no place. None where nobody waits."""
        lines = self._in_line.values()
        if without_place:
            account = min((one for one in lines if not one.held), key=_finish, default=None)
        else:
            account = min(lines, key=_finish, default=None)
        return account.waiting[0] if account is not None else None

    def charge(self, ticket: Ticket) -> None:
        """It gets its places, and waits no more."""
        self.drop(ticket)
        account = ticket.account
        account.add(ticket.cost)
        now, first = account.counter, self.first()
        if first is not None:
            # Whoever is passed by somebody without a place does not fall behind the clock.
            now = min(now, first.account.finish)
        self._clock = max(self._clock, now)

    def ahead(self, account: Account, cost: float) -> float:
        """The places of others' requests that will have their turn before those of ``account`` that cost
        ``cost`` together, as far as they wait already."""
        finish = account.counter + cost / account.weight
        places = 0.0
        for other in self._in_line.values():
            if other is not account and other.finish <= finish:
                part = (finish - other.counter) * other.weight / other.waiting_cost
                places += other.waiting_places * min(part, 1.0)
        return places
