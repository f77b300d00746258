"""The port, who may come in, the clock, and how many files may be open."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import time
from collections.abc import Iterator

import psutil

from gateway.doctor.finding import Finding, ok, problem, warning
from gateway.server import OTHER_FILES, bind
from gateway.settings import Settings
from persistence import api_keys
from persistence.database import Database, DatabaseUnavailable

# No gateway ran before; certificates and ids of a later time than this are not ours.
FIRST_YEAR, LAST_YEAR = 2025, 2100

# Of <sys/timex.h>: the kernel's clock is not kept by anyone.
STA_UNSYNC, TIME_ERROR = 0x0040, 5

KEY_SECONDS = 8.0


def check_port(settings: Settings) -> Iterator[Finding]:
    """Whether the gateway could listen there."""
    where = f"{settings.host}:{settings.port}"
    try:
        bind(settings.host, settings.port).close()
    except PermissionError:
        yield problem(
            f"this user may not listen on {where}",
            "take a port from 1024 on, or give the service CAP_NET_BIND_SERVICE",
        )
    except OSError as error:
        yield problem(
            f"can't listen on {where}: {error.strerror or error}{held_by(settings.port)}",
            "end what has it, or set host and port",
        )
    except UnicodeError:
        yield problem(f"host {settings.host!r} is no address", "set host to an address of this machine")
    else:
        yield ok(f"{where} is free")


def held_by(port: int) -> str:
    """Who listens on ``port``, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port:
                if connection.pid is None:
                    break
                return f"; process {connection.pid} ({psutil.Process(connection.pid).name()}) has it"
    except (psutil.Error, OSError):
        return ""
    return ""


def check_access(settings: Settings) -> Iterator[Finding]:
    """Whether it is known who comes, where others can."""
    if settings.authenticates:
        if settings.database_url is not None:
            yield asyncio.run(check_keys(settings))
        else:
            yield ok("callers need an API key or a login")
    elif settings.on_loopback:
        yield ok("authentication is off, and only this machine can reach the gateway")
    else:
        yield warning(
            f"authentication is off on {settings.host}: whoever reaches it may use the model, and read "
            "conversations whose id he knows",
            "set authentication to true, and make keys: 'chatglm-gateway keys create --user NAME'",
        )
    if settings.authenticates and settings.metrics_public:
        yield warning(
            "metrics_public: anyone who reaches the gateway may read /metrics",
            "set metrics_public to false and give Prometheus an admin's key, or keep /metrics inside your "
            "network",
        )


async def check_keys(settings: Settings) -> Finding:
    """Whether anybody could come in."""
    database = Database(settings.database_url, settings.data_dir)
    try:
        async with asyncio.timeout(KEY_SECONDS):
            await database.connect()
            has_keys = await api_keys.any_usable(database, KEY_SECONDS)
    except (DatabaseUnavailable, TimeoutError):
        return warning("whether there are API keys is not known", "see the database's check")
    finally:
        await database.close()
    if not has_keys:
        return warning("no API key can be used", "make one: 'chatglm-gateway keys create --user NAME'")
    return ok("callers need an API key or a login, and there are keys")


class Timex(ctypes.Structure):
    """Linux's struct timex, of which ``modes`` 0 asks and changes nothing (adjtimex(2))."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 64),
    )


def is_synchronised() -> bool | None:
    """Whether something keeps the kernel's clock right; None where that is not told."""
    timex = Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR and not timex.status & STA_UNSYNC


def check_clock(now: float, synchronised: bool | None) -> Iterator[Finding]:
    """Whether it may be right: ids, sessions, keys' ends and limits go by it."""
    told = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now))} UTC"
    if not FIRST_YEAR <= time.gmtime(now).tm_year < LAST_YEAR:
        yield problem(f"the clock says {told}", "set it, and keep it by NTP")
    elif synchronised is False:
        yield warning(
            f"{told}; nothing seems to keep the clock right",
            "run chrony or systemd-timesyncd on the machine; of a container's host it may not be told",
        )
    else:
        yield ok(
            f"{told}, kept by NTP" if synchronised else f"{told}; whether it is kept right is not told here"
        )


def check_files(settings: Settings) -> Iterator[Finding]:
    """Whether max_connections may be open, as gateway/server.py counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        yield warning(
            f"{hard} files may be open, max_connections needs {wanted}: the gateway takes "
            f"{max(1, hard - OTHER_FILES)} connections at most",
            f"raise the hard limit to {wanted} (systemd: LimitNOFILE, docker: --ulimit nofile), or lower "
            "max_connections",
        )
    else:
        yield ok(
            f"{'all' if hard == resource.RLIM_INFINITY else hard} files may be open, {wanted} are needed"
        )


def check_contradictions(settings: Settings) -> Iterator[Finding]:
    """Settings that are right each, and not together."""
    if settings.drain_seconds == 0:
        yield warning(
            "drain_seconds is 0: a restart cuts every answer that is running",
            "set drain_seconds to 30 or more",
        )
    if settings.limits_store == "postgresql" and settings.database_url is None:
        yield warning(
            "limits_store is postgresql with the embedded database, which no other gateway can share",
            "set limits_store to memory, or DATABASE_URL",
        )
    text_days, row_days = settings.retain_content_days, settings.retain_rows_days
    if text_days is not None and row_days is not None and text_days > row_days:
        yield warning(
            "retain_content_days is longer than retain_rows_days: text goes with its rows",
            "set retain_content_days no longer than retain_rows_days",
        )
    if settings.durability == "async" and settings.store_content != "none":
        yield warning(
            "durability is async: a crash loses rows of answers that clients have seen whole",
            "set durability to commit",
        )
    if settings.log_content:
        yield warning(
            "log_content: what people ask and are answered is in the log, whatever store_content and "
            "retain_content_days say",
            "set log_content to false where that is not wanted",
        )
    if settings.port == 0:
        yield warning("port is 0: another one with each start", "set port")
