"""Which revision the schema of a database has, and the way from one to another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_REVISION = re.compile(r"\d{4}")


class SchemaMismatch(Exception):
    """The schema is not the one that this program works with, or can't be brought to another one."""


def check(connection: Connection) -> None:
    """Raises SchemaMismatch where it is not of this program's revision."""
    found, wanted = _current(connection), newest()
    if found == wanted:
        return
    _check_known(found)
    raise SchemaMismatch(
        f"The database's schema is at revision {found or 'none'}, this program needs {wanted}: "
        "run 'chatglm-gateway migrate' with the same DATABASE_URL first."
    )


def migrate(connection: Connection, to: str | None) -> None:
    """Bring the schema to the revision ``to``, forth or back, or to this program's own. In the transaction of
    ``connection``. Raises SchemaMismatch."""
    found, wanted = _current(connection), to or newest()
    _check_known(found)
    if wanted not in revisions():
        raise SchemaMismatch(
            f"There is no revision {wanted}: this program knows {', '.join(sorted(revisions()))}."
        )
    config = _config()
    config.attributes["connection"] = connection
    if found is None or found <= wanted:
        command.upgrade(config, wanted)
        return
    try:
        command.downgrade(config, wanted)
    except NotImplementedError as error:
        raise SchemaMismatch(f"There is no way back from {found} to {wanted}. {error}") from error


def given_up(connection: Connection, to: str) -> list[str]:
    """What the revisions brought that ``to`` has not yet, the newest first: it goes with them."""
    found = _current(connection)
    scripts = _scripts().walk_revisions()
    return [f"{script.revision}: {script.doc}" for script in scripts if to < script.revision <= (found or "")]


def revisions() -> Sequence[str]:
    """All that this program knows, the newest first; their names are numbers of four digits."""
    return [script.revision for script in _scripts().walk_revisions()]


def newest() -> str:
    """This program's own."""
    return revisions()[0]


def _check_known(found: str | None) -> None:
    if found is not None and _REVISION.fullmatch(found) and found > newest():
        raise SchemaMismatch(
            f"The database's schema is at revision {found}, which is newer than this program: it needs "
            f"{newest()}. Run the newer program, or go back with it: "
            f"'chatglm-gateway migrate --to {newest()}'."
        )


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
