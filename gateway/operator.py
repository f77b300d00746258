"""What the commands of an operator have in common: settings, and the database behind them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from gateway.logs.formats import without_secrets

if TYPE_CHECKING:
    from gateway.settings import Settings
    from persistence.database import Database

T = TypeVar("T")

# How long PostgreSQL may take for a statement of a command.
SECONDS = 30.0

DatabaseUrl = Annotated[
    str | None, typer.Option(help="postgresql://… with libpq's options. Default: an embedded PostgreSQL.")
]
DataDir = Annotated[Path | None, typer.Option(help="Where the embedded PostgreSQL and the demo model live.")]


def fail(message: str) -> NoReturn:
    """One line to standard error, and exit status 1."""
    print(without_secrets(message), file=sys.stderr)
    raise typer.Exit(1)


def load_or_exit(given: dict[str, Any]) -> Settings:
    """The settings, or one line that names what is wrong with them."""
    from gateway.settings import InvalidSetting, load

    try:
        return load(given)
    except InvalidSetting as error:
        fail(f"Invalid setting: {error}")


def run(settings: Settings, work: Callable[[Database], Awaitable[T]], failed: str) -> T:
    """What ``work`` gives, on the database that a gateway with these settings has, also while one runs on it;
    or one line that begins with ``failed``, and exit status 1."""
    import asyncio

    from persistence.database import Database

    async def connected() -> T:
        database = Database(settings.database_url, settings.data_dir)
        try:
            await database.connect(beside=True)
            await database.check_schema()
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(connected())
    except typer.Exit:
        raise
    except Exception as error:
        fail(f"{failed}: {error}")


def run_on(
    database_url: str | None, data_dir: Path | None, work: Callable[[Database], Awaitable[T]], failed: str
) -> T:
    """As ``run``, with the settings that these options leave."""
    given = {"database_url": database_url, "data_dir": data_dir, "engine": "simulated"}
    return run(load_or_exit(given), work, failed)
