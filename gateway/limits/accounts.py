"""The accounts of all callers who have limits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields
from itertools import islice

from gateway.access.caller import Caller
from gateway.access.login_throttle import MOST_KEYS, network
from gateway.limits.account import Account
from persistence.caller_limits import UNLIMITED, Limits

# Of the accounts that were used least lately, looked at for each new one.
LOOKED_AT = 2
# What a proxy says of whom it speaks for need not be one.
LONGEST_ADDRESS = 64

_FIELDS = [field.name for field in fields(Limits)]


class Accounts:
    """``key``, ``user`` and ``anonymous`` are the limits of those who have none of their own.

    An account is forgotten when nothing of it counts any more. There are no more of keys and users than
    have asked for something in the last minute, or, where they have a limit of tokens per day, today. Of
    addresses, which anyone may have as many of as he likes, there are at most MOST_KEYS: beyond that the one
    that was used least lately begins anew, unless it has a request that runs.
    """

    def __init__(self, key: Limits, user: Limits, anonymous: Limits) -> None:
        self._key, self._user, self._anonymous = key, user, anonymous
        self._named: OrderedDict[str, Account] = OrderedDict()
        self._addresses: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._named) + len(self._addresses)

    def of(self, caller: Caller, now: int, day: int) -> list[tuple[Account, Limits]]:
        """Whatever a request of ``caller`` counts for, and has limits."""
        limits_of = self._limits_of(caller)
        # All room is made before one of them is found: a new one is idle.
        for name in limits_of:
            if name not in self._table_of(name):
                self._make_room(self._table_of(name), now, day)
        return [(self.find(name, now, day), limits) for name, limits in limits_of.items()]

    def _limits_of(self, caller: Caller) -> dict[str, Limits]:
        """The names of his accounts that have limits, and these."""
        found = {}
        if caller.key_id is not None:
            limits = with_defaults(caller.key_limits, self._key)
            if limits is not UNLIMITED and limits != UNLIMITED:
                found[f"key:{caller.key_id.hex}"] = limits
        if caller.user_id is not None:
            limits = with_defaults(caller.user_limits, self._user)
            if limits is not UNLIMITED and limits != UNLIMITED:
                found[f"user:{caller.user_id.hex}"] = limits
        elif caller.key_id is None and self._anonymous != UNLIMITED:
            found[f"address:{network(caller.address)[:LONGEST_ADDRESS]}"] = self._anonymous
        return found

    def find(self, name: str, now: int, day: int) -> Account:
        """The account of this name, as it is now; a new one where there is none."""
        table = self._table_of(name)
        account = table.get(name)
        if account is None:
            account = table[name] = Account(name, name.partition(":")[0])
        else:
            table.move_to_end(name)
        account.refresh(now, day)
        return account

    def _table_of(self, name: str) -> OrderedDict[str, Account]:
        return self._addresses if name.startswith("address:") else self._named

    def _make_room(self, table: OrderedDict[str, Account], now: int, day: int) -> None:
        for name in list(islice(table, LOOKED_AT)):
            account = table[name]
            account.refresh(now, day)
            full = table is self._addresses and len(table) >= MOST_KEYS
            if account.idle or (full and not account.running):
                del table[name]
            else:
                table.move_to_end(name)


def with_defaults(own: Limits, defaults: Limits) -> Limits:
    """Each limit that is not a caller's own is the default."""
    if own is UNLIMITED or own == UNLIMITED:
        return defaults
    if defaults == UNLIMITED:
        return own
    values = [getattr(own, name) for name in _FIELDS]
    return Limits(
        *(
            getattr(defaults, name) if value is None else value
            for name, value in zip(_FIELDS, values, strict=True)
        )
    )
