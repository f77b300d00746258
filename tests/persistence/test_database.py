from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.schema import SchemaItem

from persistence.database import Database, DatabaseUnavailable
from persistence.schema import SchemaMismatch
from persistence.tables import metadata
from tests.persistence.conftest import MakeDatabase


async def connected(url: str) -> Database:
    database = Database(url, Path())
    await database.connect()
    return database


async def test_an_external_database_without_the_schema_is_refused_saying_what_to_do(
    fresh_database: MakeDatabase,
) -> None:
    database = await connected(await fresh_database())
    with pytest.raises(SchemaMismatch, match="chatglm-gateway migrate"):
        await database.check_schema()
    async with database.engine.connect() as connection:
        tables = await connection.execute(text("SELECT 1 FROM pg_tables WHERE schemaname = 'public'"))
        assert tables.all() == []
    await database.close()


async def test_an_old_revision_is_refused_by_its_name(fresh_database: MakeDatabase) -> None:
    database = await connected(await fresh_database())
    await database.migrate()
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(SchemaMismatch, match="at revision 0000"):
        await database.check_schema()
    await database.close()


async def test_a_newer_revision_is_refused_saying_whose_it_is(fresh_database: MakeDatabase) -> None:
    """A program that was rolled back does not run on what it does not know, nor change it."""
    database = await connected(await fresh_database())
    await database.migrate()
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (database.check_schema, database.migrate):
        with pytest.raises(SchemaMismatch, match=r"9999, which is newer than this program.*migrate --to"):
            await attempt()
    await database.close()


async def test_the_way_back_and_forth_again(fresh_database: MakeDatabase) -> None:
    database = await connected(await fresh_database())
    await database.migrate()
    assert [line[:4] for line in await database.given_up("0003")] == ["0005", "0004"]
    await database.migrate("0003")
    async with database.engine.connect() as connection:
        tables = await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        assert {"message", "user"} <= (names := {name for (name,) in tables}), names
        assert not names & {"api_key", "limit_use"}
    with pytest.raises(SchemaMismatch, match="at revision 0003"):
        await database.check_schema()
    await database.migrate()
    await database.check_schema()
    assert await database.given_up("0005") == []
    await database.close()


@pytest.mark.parametrize(
    ("to", "said"), [("0001", "no way back"), ("0099", "no revision 0099"), ("base", "no revision base")]
)
async def test_a_way_that_is_not_there_changes_nothing(
    fresh_database: MakeDatabase, to: str, said: str
) -> None:
    database = await connected(await fresh_database())
    await database.migrate()
    with pytest.raises(SchemaMismatch, match=said):
        await database.migrate(to)
    await database.check_schema()
    await database.close()


async def test_migrating_twice_and_at_the_same_time_is_fine(fresh_database: MakeDatabase) -> None:
    url = await fresh_database()
    gateways = [await connected(url) for _ in range(3)]
    await asyncio.gather(*(gateway.migrate() for gateway in gateways))
    await gateways[0].migrate()
    await gateways[0].check_schema()
    for gateway in gateways:
        await gateway.close()


async def test_the_migrations_make_the_tables_that_the_program_sees(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        def is_ours(thing: SchemaItem, name: str | None, type_: str, *rest: object) -> bool:
            table = name if type_ == "table" else getattr(getattr(thing, "table", None), "name", "")
            return re.search(r"_[0-9]{4}_[0-9]{2}", str(table)) is None

        options = {"compare_type": True, "compare_server_default": True, "include_object": is_ours}
        found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        return found

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_embedded_server_is_started_migrated_and_stopped(data_dir: Path) -> None:
    database = Database(None, data_dir)
    await database.connect()
    await database.check_schema()
    await database.check()
    assert (data_dir / "postgres" / "postmaster.pid").exists()
    await database.close()
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres@/none?host=/nowhere",
        "postgresql://127.0.0.1:1/none",
        "postgresql://127.0.0.1:not-a-port/none",
        "postgresql://127.0.0.1/none?sslmode=sometimes",
    ],
)
async def test_a_server_that_is_not_there_is_unavailable_in_one_line(url: str) -> None:
    with pytest.raises(DatabaseUnavailable) as refused:
        await Database(url, Path()).connect()
    assert len(str(refused.value).splitlines()) == 1


async def test_a_database_that_does_not_exist_is_unavailable_by_its_name(server_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match='"absent" does not exist'):
        await Database(server_url.replace("/postgres?", "/absent?"), Path()).connect()


async def test_a_connection_that_was_cut_is_replaced(database: Database) -> None:
    async with database.engine.connect() as one, database.engine.connect() as other:
        killed = (await one.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": killed})
        await one.invalidate()
    await database.check()


async def test_without_a_connection_there_is_no_engine() -> None:
    with pytest.raises(DatabaseUnavailable):
        _ = Database("postgresql://h/d", Path()).engine
