"""Rows in PostgreSQL: what the recorder sustains, and what ten million rows cost that ten thousand don't.

    python -m benchmarks.rows [--quick] [--rows 10000000] [--folder FOLDER]

The server is the embedded one, with its defaults but max_wal_size, in a folder of its own below FOLDER that
is removed in the end; both databases are on it, and take turns. Results: benchmarks/results/rows.json and
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import uvloop

from benchmarks.load import Percentiles, percentiles_ms
from benchmarks.report import figure, line, render_spread, write_between_markers
from benchmarks.row_filling import FEW_ROWS, fill, plan
from benchmarks.row_measures import LAST_TURNS, Filled, record
from benchmarks.servers import REPOSITORY
from persistence.database import Database
from persistence.embedded import EmbeddedPostgres

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
RESULTS = REPOSITORY / "benchmarks" / "results" / "rows.json"

FEW, MANY, QUICK = 10_000, 10_000_000, 1_000_000
BYTES_PER_ROW = 1_600  # of tables, indexes and the log of writing them
CLOSERS = (64, 1_000)
RECORDED_ROWS = 20_000
ROUNDS = 5

INSERT_1, INSERT_50 = "insert of 1 row", "insert of 50 rows"
READ = f"last {LAST_TURNS} turns of a conversation"
SUM = f"sums of a day of {FEW_ROWS:,} rows"
RETAIN = f"retention: a month and a day of content, {FEW_ROWS:,} rows"


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of the recorder alone."""

    closers: int
    rows_per_second: float
    wait_ms: Percentiles


@dataclass(slots=True)
class Fullness:
    """What was measured with so many ``rows``; durations in milliseconds."""

    rows: int
    fill_seconds: float = 0.0
    durations: dict[str, Percentiles] = field(default_factory=dict)
    # Of the last 30 days, with their share of the rows.
    month_sum_ms: float = 0.0
    # Of the oldest months but the one of FEW_ROWS, with their share.
    retained_rows: int = 0
    retention_ms: float = 0.0
    insert_meanwhile_ms: Percentiles | None = None
    longest_insert_meanwhile_ms: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"with {QUICK:,} rows; only prints")
    parser.add_argument("--rows", type=int, default=MANY)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    options = parser.parse_args()
    rows = QUICK if options.quick else options.rows
    with tempfile.TemporaryDirectory(prefix="rows-", dir=options.folder) as folder:
        free, needed = shutil.disk_usage(folder).free, rows * BYTES_PER_ROW
        if free < needed:
            sys.exit(f"{rows:,} rows need {needed / 1e9:.0f} GB in {folder}, {free / 1e9:.0f} GB are free.")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            version, recordings, full = runner.run(measure(Path(folder), (FEW, rows)))
    tables = render(recordings, full)
    print(tables)
    if not options.quick:
        about = describe_run() | {"postgresql": version}
        measured = {"recorder": [asdict(one) for one in recordings], "rows": [asdict(one) for one in full]}
        RESULTS.write_text(json.dumps(about | measured, indent=1) + "\n")
        heading = (
            f"PostgreSQL {about['postgresql']}, Python {about['python']}, {about['cores']} cores, "
            f"{about['date']}, `{about['command']}`."
        )
        write_between_markers(DOCUMENT, "rows", f"{heading}\n\n{tables}")


async def measure(folder: Path, sizes: Sequence[int]) -> tuple[str, list[Recording], list[Fullness]]:
    """Start a server, measure, stop it. Gives its version, too."""
    server = EmbeddedPostgres(folder)
    url = await asyncio.to_thread(server.start)
    try:
        version = await prepared(url)
        return version, await measure_recorder(url, folder), await measure_full(url, sizes)
    finally:
        await asyncio.to_thread(server.stop)


async def prepared(url: str) -> str:
    """The server's version. While it is filled its checkpoints would take most of the time."""
    server = await asyncpg.connect(url)
    await server.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
    await server.execute("SELECT pg_reload_conf()")
    version: str = await server.fetchval("SHOW server_version")
    await server.close()
    return version


async def measure_recorder(url: str, folder: Path) -> list[Recording]:
    """Rows per second, and the wait of who closes one."""
    recordings = []
    async with new_database(url, "recorder") as database:
        for number in range(3):
            for closers in CLOSERS:
                made = await record(database, folder / f"journal-{number}-{closers}", closers, RECORDED_ROWS)
                recordings.append(Recording(closers, made.rows / made.seconds, percentiles_ms(made.waits)))
                say(f"recorder: {recordings[-1]}")
    return recordings


async def measure_full(url: str, sizes: Sequence[int]) -> list[Fullness]:
    """All that is asked of databases with so many rows, turn by turn."""
    async with new_database(url, "few") as few, new_database(url, "many") as many:
        full = [Fullness(rows) for rows in sizes]
        filled = [await filled_with(database, one) for database, one in zip((few, many), full, strict=True)]
        durations: list[dict[str, list[float]]] = [{} for _ in sizes]
        for number in range(-1, ROUNDS):
            for place, database in enumerate(filled):
                measured = await one_round(database)
                # The first one warms up.
                for name in measured if number >= 0 else ():
                    durations[place].setdefault(name, []).extend(measured[name])
            say(f"round {number} measured")
        for one, found, database in zip(full, durations, filled, strict=True):
            one.durations = {name: percentiles_ms(seconds) for name, seconds in found.items()}
            one.month_sum_ms = 1000 * await database.sum_month()
            one.retained_rows, seconds, waits = await database.retain_share()
            one.retention_ms, one.longest_insert_meanwhile_ms = 1000 * seconds, 1000 * max(waits)
            one.insert_meanwhile_ms = percentiles_ms(waits)
            await database.close()
    return full


async def one_round(database: Filled) -> dict[str, list[float]]:
    """Durations in seconds; the database then has as many rows as before."""
    measured = {
        INSERT_1: await database.insert(1, 300),
        INSERT_50: await database.insert(50, 40),
        READ: await database.read_conversations(200),
        SUM: await database.sum_day(40),
    }
    await database.delete_inserted()
    return measured | {RETAIN: [await database.retain_few()]}


async def filled_with(database: Database, full: Fullness) -> Filled:
    """The database with its rows in it."""
    layout = plan(full.rows, datetime.now(UTC))
    started = time.perf_counter()
    await fill(database, layout)
    full.fill_seconds = time.perf_counter() - started
    say(f"{full.rows:,} rows made in {full.fill_seconds:.0f} s")
    return Filled(database, layout, await database.connection())


@asynccontextmanager
async def new_database(url: str, name: str) -> AsyncIterator[Database]:
    """With our schema, on the server at ``url``; dropped in the end."""
    server = await asyncpg.connect(url)
    await server.execute(f"CREATE DATABASE {name}")
    database = Database(urlsplit(url)._replace(path=f"/{name}").geturl(), Path())
    await database.connect()
    await database.migrate()
    try:
        yield database
    finally:
        await database.close()
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


def render(recordings: Sequence[Recording], full: Sequence[Fullness]) -> str:
    """The tables, as Markdown."""
    return "\n\n".join(
        [
            "### The recorder alone",
            render_recorder(recordings),
            "### A few rows, and many",
            render_ratios(full),
            render_shares(full),
        ]
    )


def render_recorder(recordings: Sequence[Recording]) -> str:
    lines = [["closing at once", "rows/s", "wait p50, ms", "wait p99, ms"], ["---:"] * 4]
    for closers in CLOSERS:
        runs = [one for one in recordings if one.closers == closers]
        columns = (
            [one.rows_per_second for one in runs],
            [one.wait_ms.p50 for one in runs],
            [one.wait_ms.p99 for one in runs],
        )
        lines.append([f"{closers:,}", *map(render_spread, columns)])
    return "\n".join(map(line, lines))


def render_ratios(full: Sequence[Fullness]) -> str:
    few, many = full
    lines = [["", f"{few.rows:,} rows", f"{many.rows:,} rows", "ratio"], ["---", "---:", "---:", "---:"]]
    for name, duration in few.durations.items():
        for percentile in ("p50", "p99") if name != RETAIN else ("p50",):
            values = getattr(duration, percentile), getattr(many.durations[name], percentile)
            lines.append([f"{name}, {percentile}, ms", *map(figure, values), f"{values[1] / values[0]:.2f}"])
    return "\n".join(map(line, lines))


def render_shares(full: Sequence[Fullness]) -> str:
    """What grows with the rows that it is about."""
    lines = [["", *(f"{one.rows:,} rows" for one in full)], ["---", *("---:" for _ in full)]]
    lines.append(["sums of the last 30 days, ms", *(figure(one.month_sum_ms) for one in full)])
    lines.append(["retention: rows summed and dropped", *(f"{one.retained_rows:,}" for one in full)])
    lines.append(["how long it took, ms", *(figure(one.retention_ms) for one in full)])
    waits = [(one.insert_meanwhile_ms or Percentiles(0, 0)) for one in full]
    lines.append(["insert of 1 row meanwhile, p50, ms", *(figure(wait.p50) for wait in waits)])
    lines.append(["insert of 1 row meanwhile, p99, ms", *(figure(wait.p99) for wait in waits)])
    lines.append(["longest insert meanwhile, ms", *(figure(one.longest_insert_meanwhile_ms) for one in full)])
    return "\n".join(map(line, lines))


def describe_run() -> dict[str, object]:
    """What a reader needs to repeat the run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.rows", *sys.argv[1:]]),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr)


if __name__ == "__main__":
    main()
