"""``chatglm-gateway keys``: API keys, made and ended by an operator."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.operator import SECONDS, DatabaseUrl, DataDir, fail, run_on
from gateway.operator_limits import (
    ConcurrentRequests,
    RequestsPerMinute,
    TokensPerDay,
    TokensPerMinute,
    limits_with,
    shown_limits,
    table,
)

if TYPE_CHECKING:
    from persistence.api_keys import ApiKey
    from persistence.database import Database

app = typer.Typer(help="API keys: make, list, limit, revoke.", no_args_is_help=True)

OWN_SCOPES = "inference,feedback,read"

Name = Annotated[str | None, typer.Option(help="What the key is for.")]
ScopeNames = Annotated[
    str | None, typer.Option(help=f"What it may do, separated by commas: {OWN_SCOPES},admin.")
]
ExpiresDays = Annotated[float | None, typer.Option(min=0, help="It holds for so many days; 0: for ever.")]
Weight = Annotated[
    float | None, typer.Option(help="With 2 it is served twice as much where there is not enough for all.")
]


@app.command()
def create(
    user: Annotated[str, typer.Option(help="Whose it is; made if not there, without a password.")],
    name: Name = None,
    scopes: ScopeNames = None,
    expires_days: ExpiresDays = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent_requests: ConcurrentRequests = None,
    weight: Weight = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="With all scopes; the user is made an admin.")
    ] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, once: it is stored nowhere. What is known of it goes to standard error."""
    from gateway.access.api_keys import new_key, prefix_of
    from gateway.access.caller import Scope
    from gateway.users_command import checked_name, ensured
    from persistence import api_keys
    from persistence.caller_limits import UNLIMITED

    wanted = set(Scope) if admin else scopes_of(OWN_SCOPES if scopes is None else scopes)
    limits = limits_with(
        UNLIMITED, requests_per_minute, tokens_per_minute, tokens_per_day, concurrent_requests
    )
    username, title, share = checked_name(user), checked_title(name or ""), checked_weight(weight or 1.0)
    key = new_key()

    async def work(database: Database) -> None:
        owner = await ensured(database, username, make_admin=admin)
        if Scope.ADMIN in wanted and not owner.is_admin:
            fail(f"{username} is not an admin: give --admin, which makes him one.")
        await api_keys.create(
            database,
            key,
            prefix_of(key),
            owner.id,
            SECONDS,
            name=title,
            scopes=wanted,
            limits=limits,
            weight=share,
            expire_time=expiry(expires_days),
        )

    run_on(database_url, data_dir, work, "The key was not made")
    print(f"Key {prefix_of(key)}… of {username}: {', '.join(sorted(wanted))}.", file=sys.stderr)
    print(key)


@app.command("list")
def list_keys(
    user: Annotated[str | None, typer.Option(help="Only those of this user.")] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Print all keys, newest first."""
    from gateway.users_command import found
    from persistence import api_keys

    async def work(database: Database) -> list[ApiKey]:
        owner = None if user is None else (await found(database, user)).id
        keys: list[ApiKey] = []
        more = True
        while more:
            after = keys[-1].id if keys else None
            page, more = await api_keys.listed(database, owner, after, api_keys.MOST_LISTED, SECONDS)
            keys += page
        return keys

    keys = run_on(database_url, data_dir, work, "The keys can't be read")
    now = datetime.now(UTC)
    print(
        table(
            ("prefix", "user", "name", "status", "scopes", "weight", "expires", "limits"),
            [
                (
                    key.prefix,
                    key.username,
                    key.name or "-",
                    key.status(now),
                    ",".join(key.scopes),
                    f"{key.weight:g}",
                    "-" if key.expire_time is None else f"{key.expire_time:%Y-%m-%d}",
                    shown_limits(key.limits),
                )
                for key in keys
            ],
        )
    )


@app.command()
def limit(
    key: Annotated[str, typer.Argument(help="The key's prefix (cgw_ and 8 characters) or id.")],
    name: Name = None,
    scopes: ScopeNames = None,
    expires_days: ExpiresDays = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent_requests: ConcurrentRequests = None,
    weight: Weight = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Change what is given of a key; it counts within two seconds."""
    from gateway.access.caller import Scope
    from persistence import api_keys

    wanted = None if scopes is None else scopes_of(scopes)
    title = None if name is None else checked_title(name)
    share = None if weight is None else checked_weight(weight)

    def edit(one: ApiKey) -> ApiKey:
        return replace(
            one,
            name=one.name if title is None else title,
            scopes=one.scopes if wanted is None else sorted(wanted),
            limits=limits_with(
                one.limits, requests_per_minute, tokens_per_minute, tokens_per_day, concurrent_requests
            ),
            weight=one.weight if share is None else share,
            expire_time=one.expire_time if expires_days is None else expiry(expires_days),
        )

    async def work(database: Database) -> ApiKey | None:
        meant = await the_key(database, key)
        if wanted is not None and Scope.ADMIN in wanted and not meant.user_is_admin:
            fail(f"{meant.username} is not an admin: 'chatglm-gateway users admin' makes him one.")
        return await api_keys.change(database, meant.id, edit, SECONDS)

    changed = run_on(database_url, data_dir, work, "The key was not changed")
    if changed is not None:
        print(f"Key {changed.prefix}… of {changed.username}: {shown_limits(changed.limits)}.")


@app.command()
def revoke(
    keys: Annotated[list[str] | None, typer.Argument(help="Prefixes or ids of keys.")] = None,
    user: Annotated[str | None, typer.Option(help="All keys of this user.")] = None,
    all_keys: Annotated[bool, typer.Option("--all", help="All keys that there are.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """End keys for good; it counts within two seconds."""
    from gateway.users_command import found
    from persistence import api_keys

    if sum((bool(keys), user is not None, all_keys)) != 1:
        fail("Name keys, or give --user or --all: one of the three.")

    async def work(database: Database) -> int:
        if user is not None:
            return await api_keys.revoke(database, SECONDS, user_id=(await found(database, user)).id)
        if all_keys:
            return await api_keys.revoke(database, SECONDS)
        ids = [(await the_key(database, one)).id for one in keys or ()]
        return await api_keys.revoke(database, SECONDS, ids=ids)

    count = run_on(database_url, data_dir, work, "No key was revoked")
    print(f"{count} {'key was' if count == 1 else 'keys were'} revoked.")


async def the_key(database: Database, text: str) -> ApiKey:
    """The one that ``text`` names. A whole key is not looked up: it has no business on a command line."""
    from adapters.chatchat.fufan import uuid_of
    from gateway.access.api_keys import is_key, prefix_of
    from persistence import api_keys

    if is_key(text):
        fail(f"Name the key by its prefix, {prefix_of(text)}, not by itself.")
    named = await api_keys.named(database, uuid_of(text), text.rstrip("…"), SECONDS)
    if len(named) != 1:
        fail(f"There is no key '{text}'." if not named else f"More than one key begins with '{text}'.")
    return named[0]


def scopes_of(text: str) -> set[str]:
    """The scopes that a list names."""
    from gateway.access.caller import Scope

    names = {name.strip() for name in text.split(",")} - {""}
    if not names or not names <= set(Scope):
        fail(f"--scopes: one or more of {', '.join(Scope)}, separated by commas.")
    return {str(name) for name in names}


def checked_title(name: str) -> str:
    """What a key is for, as it may be stored."""
    from pydantic import TypeAdapter, ValidationError

    from adapters.openai.admin import MOST_KEY_NAME, KeyName

    try:
        return TypeAdapter[str](KeyName).validate_python(name)
    except ValidationError:
        fail(f"--name: at most {MOST_KEY_NAME} characters, and no control characters.")


def checked_weight(weight: float) -> float:
    """A weight as it may be stored."""
    from adapters.openai.admin import MOST_WEIGHT

    if not 0 < weight <= MOST_WEIGHT:
        fail(f"--weight: more than 0, at most {MOST_WEIGHT:g}.")
    return weight


def expiry(days: float | None) -> datetime | None:
    """When a key ends that holds for so many days."""
    if not days:
        return None
    try:
        return datetime.now(UTC) + timedelta(days=days)
    except (OverflowError, ValueError):
        fail("--expires-days: too many.")
