"""``chatglm-gateway users``: who there is, and what they may do."""

from __future__ import annotations

import sys
from dataclasses import replace
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
    from collections.abc import Callable

    from persistence.database import Database
    from persistence.users import User

app = typer.Typer(help="Users: list, create, limit, shut out.", no_args_is_help=True)

UserName = Annotated[str, typer.Argument(help="The user's name.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input, one line.")
]


@app.command("list")
def list_users(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Print all users, newest first."""
    from persistence import users

    async def work(database: Database) -> list[User]:
        listed: list[User] = []
        more = True
        while more:
            after = listed[-1].id if listed else None
            page, more = await users.listed(database, after, users.MOST_LISTED, SECONDS)
            listed += page
        return listed

    listed = run_on(database_url, data_dir, work, "The users can't be read")
    print(
        table(
            ("id", "name", "admin", "password", "limits"),
            [
                (
                    user.id.hex,
                    user.username,
                    "yes" if user.is_admin else "no",
                    "yes" if user.password_hash else "no",
                    shown_limits(user.limits),
                )
                for user in listed
            ],
        )
    )


@app.command()
def create(
    name: UserName,
    password_stdin: PasswordStdin = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="He can't log in, and has keys only.")
    ] = False,
    admin: Annotated[bool, typer.Option("--admin", help="He sees and does all.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a user, with the password that is asked for."""
    from persistence import users

    username = checked_name(name)
    hashed = users.NO_PASSWORD if no_password else hash_of(new_password(password_stdin))

    async def work(database: Database) -> bool:
        made = await users.register(database, username, hashed, SECONDS, is_admin=admin)
        return made is not None

    if not run_on(database_url, data_dir, work, "The user was not made"):
        fail(f"There is a user {username} already.")
    print(f"User {username} was made.")


@app.command("set-password")
def set_password(
    name: UserName,
    password_stdin: PasswordStdin = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Give a user the password that is asked for; whoever is logged in as him is so no more."""
    hashed = hash_of(new_password(password_stdin))
    change(name, lambda user: replace(user, password_hash=hashed), database_url, data_dir)
    print(f"The password of {name} was set.")


@app.command()
def limit(
    name: UserName,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    concurrent_requests: ConcurrentRequests = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Change the limits of all that a user does; it counts within two seconds."""

    def edit(user: User) -> User:
        limits = limits_with(
            user.limits, requests_per_minute, tokens_per_minute, tokens_per_day, concurrent_requests
        )
        return replace(user, limits=limits)

    print(f"User {name}: {shown_limits(change(name, edit, database_url, data_dir).limits)}.")


@app.command()
def admin(
    name: UserName,
    take_away: Annotated[bool, typer.Option("--no", help="He is an admin no more.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a user an admin, or no more; it counts within two seconds."""
    user = change(name, lambda user: replace(user, is_admin=not take_away), database_url, data_dir)
    print(f"User {name} is {'an' if user.is_admin else 'no'} admin.")


@app.command("shut-out")
def shut_out(name: UserName, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Take away a user's password and logins, and revoke his keys; what is his stays."""
    from persistence import users

    async def work(database: Database) -> None:
        await users.shut_out(database, (await found(database, name)).id, SECONDS)

    run_on(database_url, data_dir, work, "The user was not shut out")
    print(f"User {name} can't come in any more.")


def change(name: str, edit: Callable[[User], User], database_url: DatabaseUrl, data_dir: DataDir) -> User:
    """A user as ``edit`` has left him."""
    from persistence import users

    async def work(database: Database) -> User:
        changed = await users.change(database, (await found(database, name)).id, edit, SECONDS)
        if changed is None:
            fail(f"There is no user {name}.")
        return changed

    return run_on(database_url, data_dir, work, "The user was not changed")


async def found(database: Database, name: str) -> User:
    """The user of this name, who is there."""
    from persistence import users

    user = await users.find(database, checked_name(name), SECONDS)
    if user is None:
        fail(f"There is no user {name}.")
    return user


async def ensured(database: Database, username: str, *, make_admin: bool) -> User:
    """The user of this name, who is made where he is not there, without a password; with ``make_admin`` an
    admin."""
    from persistence import users

    await users.register(database, username, users.NO_PASSWORD, SECONDS)
    user = await found(database, username)
    if make_admin and not user.is_admin:
        await users.change(database, user.id, lambda one: replace(one, is_admin=True), SECONDS)
        return await found(database, username)
    return user


def checked_name(name: str) -> str:
    """A user's name as it is stored."""
    from pydantic import TypeAdapter, ValidationError

    from adapters.accounts import MOST_NAME_CHARACTERS, UserName

    try:
        return TypeAdapter[str](UserName).validate_python(name)
    except ValidationError:
        fail(f"A user's name has 1 to {MOST_NAME_CHARACTERS} characters, and no control characters.")


def new_password(from_stdin: bool) -> str:
    """A password that somebody types, twice, or that another program hands in; never from the command line,
    which others on the machine can read."""
    from pydantic import TypeAdapter, ValidationError

    from adapters.accounts import LEAST_PASSWORD_CHARACTERS, MOST_PASSWORD_BYTES, NewPassword

    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        return TypeAdapter[str](NewPassword).validate_python(password)
    except ValidationError:
        fail(f"A password has {LEAST_PASSWORD_CHARACTERS} characters to {MOST_PASSWORD_BYTES} bytes.")


def hash_of(password: str) -> str:
    """What is stored of a password."""
    import asyncio

    from gateway.access.passwords import Passwords

    async def hashed() -> str:
        passwords = Passwords()
        try:
            return await passwords.hash(password)
        finally:
            passwords.close()

    return asyncio.run(hashed())
