"""The data directory: ours to write, on a disk that keeps what it is given and has room."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from gateway.doctor.finding import Finding, in_units, ok, problem, warning
from gateway.settings import Settings

# For the embedded PostgreSQL, beside the journal.
DATABASE_BYTES = 2 * 1024**3
FORGETFUL = {
    "tmpfs": "memory: all of it is gone after a restart of the machine",
    "ramfs": "memory: all of it is gone after a restart of the machine",
    "overlay": "a container's own layer: all of it is gone with the container",
}


def check_data_dir(settings: Settings) -> Iterator[Finding]:
    """Nothing is left behind: what is written to try it never has a name."""
    folder, there = settings.data_dir, nearest(settings.data_dir)
    if not there.is_dir():
        yield problem(f"data_dir {folder}: {there} is no folder", "set data_dir to a folder")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield problem(
            f"data_dir {folder}: user {os.geteuid()} may not write to {there}",
            f"chown it to the gateway's user, or set data_dir; the owner is user {there.stat().st_uid}",
        )
        return
    try:
        tried = try_to_keep(there)
    except OSError as error:
        yield problem(
            f"data_dir {folder} does not keep what is written: {error.strerror}", "look at its disk"
        )
        return
    made = "" if there == folder else " is made at the first start"
    yield ok(
        f"data_dir {folder}{made}"
        + ("" if tried else "; whether its disk keeps what is written could not be tried here")
    )
    yield from check_owners(settings)
    kind = filesystem_of(there)
    if kind in FORGETFUL:
        yield warning(
            f"data_dir is on {kind}, {FORGETFUL[kind]}",
            "set data_dir to a disk or a volume" + ("" if settings.database_url else ": all rows are there"),
        )
    yield check_room(settings, psutil.disk_usage(str(there)).free)


def nearest(folder: Path) -> Path:
    """``folder``, or what is there of the way to it."""
    return next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())


def try_to_keep(folder: Path) -> bool:
    """Write to a file without a name, and wait for the disk. Raises OSError; False where there are no such
    files, so that nothing was tried."""
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    try:
        os.write(file, b"x" * 4096)
        os.fsync(file)
    finally:
        os.close(file)
    return True


# Of filesystems, and kernels, that have no files without a name.
UNSUPPORTED = (errno.EISDIR, errno.EOPNOTSUPP)


def check_owners(settings: Settings) -> Iterator[Finding]:
    """Whether what a gateway of another user has made can be used."""
    for name in ("journal", "lock", "models"):
        path = settings.data_dir / name
        if path.exists() and not os.access(path, os.W_OK):
            yield problem(
                f"{path} belongs to user {path.stat().st_uid}: this user may not write there",
                f"run the gateway as that user, or chown -R {settings.data_dir}",
            )


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """As the kernel names it; None where that is not known."""
    best, kind = -1, None
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    resolved = folder.resolve()
    for line in lines:
        front, _, back = line.partition(" - ")
        point = Path(front.split()[4].encode().decode("unicode_escape"))
        # The last one that is mounted there is what is seen.
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), back.split()[0]
    return kind


def check_room(settings: Settings, free: int) -> Finding:
    """Whether the journal can grow as far as it may, and an embedded PostgreSQL beside it."""
    wanted = settings.journal_max_bytes + (0 if settings.database_url else DATABASE_BYTES)
    told = f"{in_units(free)} are free for data_dir"
    if free < wanted:
        return warning(
            f"{told}, and it may need {in_units(wanted)}",
            "make room, set data_dir to a larger disk, or lower journal_max_bytes; retain_content_days and "
            "retain_rows_days keep rows from growing without end",
        )
    return ok(told)
