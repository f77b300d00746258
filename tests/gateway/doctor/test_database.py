from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor.database import check_database, check_server, check_tls
from gateway.doctor.finding import Finding
from gateway.settings import load
from persistence import embedded
from persistence.inspection import Server, embedded_versions

WELL = Server(
    version=180_004,
    version_text="18.4",
    encoding="UTF8",
    max_connections=100,
    reserved=3,
    connected=4,
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    read_only=False,
    ssl=True,
    revision="0005",
    wanted="0005",
    may_create=True,
    may_write=True,
    owns_tables=True,
    clock_seconds=0.001,
    round_trip_seconds=0.002,
)
URL = "postgresql://db/gateway"


def found(server: Server, **settings: Any) -> list[Finding]:
    return list(check_server(server, load({"database_url": URL} | settings), URL))


def wrong(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "ok"]


def test_a_server_that_is_well() -> None:
    assert wrong(found(WELL)) == []


@pytest.mark.parametrize(
    ("change", "level", "said", "remedy"),
    [
        ({"version": 130_011, "version_text": "13.11"}, "warning", "13.11", "PostgreSQL 16"),
        ({"encoding": "SQL_ASCII"}, "problem", "SQL_ASCII", "ENCODING 'UTF8'"),
        ({"read_only": True}, "problem", "standby", "primary"),
        ({"revision": None}, "problem", "revision none", "chatglm-gateway migrate"),
        ({"revision": "0004"}, "problem", "needs 0005", "chatglm-gateway migrate"),
        ({"revision": "0006"}, "problem", "needs 0005", "migrate --to 0005"),
        ({"may_write": False}, "problem", "read and write", "GRANT"),
        ({"owns_tables": False}, "problem", "partitions", "own"),
        ({"may_create": False}, "problem", "partitions", "GRANT CREATE"),
        ({"fsync": False}, "warning", "fsync is off", "fsync = on"),
        ({"full_page_writes": False}, "warning", "full_page_writes is off", "full_page_writes = on"),
        ({"synchronous_commit": "off"}, "warning", "synchronous_commit is off", "synchronous_commit = on"),
        ({"clock_seconds": -90.0}, "warning", "90.0 s behind", "NTP"),
        ({"clock_seconds": 90.0}, "warning", "90.0 s ahead of", "NTP"),
        ({"connected": 94}, "warning", "3 of 100 connections", "max_connections"),
    ],
)
def test_what_is_wrong_with_a_server_is_told_with_what_to_do(
    change: dict[str, Any], level: str, said: str, remedy: str
) -> None:
    (finding,) = wrong(found(replace(WELL, **change)))
    assert finding.level == level
    assert said in finding.found
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("postgresql://localhost/d", None),
        ("postgresql://127.0.0.1/d", None),
        ("postgresql:///d?host=/run/postgresql", None),
        ("postgresql://db.example/d", "warning"),
        ("postgresql://db.example/d?sslmode=require", "warning"),
        ("postgresql://db.example/d?sslmode=verify-full", "ok"),
    ],
)
def test_the_way_to_another_machine_should_be_encrypted_and_checked(url: str, level: str | None) -> None:
    finding = check_tls(url)
    assert (finding.level if finding else None) == level


def test_a_server_that_is_not_there_is_a_problem_without_its_password(tmp_path: Path) -> None:
    settings = load({"database_url": f"postgresql://u:s3cret@/d?host={tmp_path}"})
    (finding,) = check_database(settings)
    assert finding.level == "problem"
    assert "u:***@" in finding.found
    assert "s3cret" not in finding.found + finding.remedy


def test_an_embedded_database_that_is_not_there_yet_stays_so(tmp_path: Path) -> None:
    (finding,) = check_database(load({"data_dir": tmp_path / "data"}))
    assert finding.level == "ok"
    assert not (tmp_path / "data").exists()


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[[str], Path]:
    def make(version: str) -> Path:
        (tmp_path / "postgres").mkdir()
        (tmp_path / "postgres" / "PG_VERSION").write_text(f"{version}\n")
        return tmp_path

    return make


def test_a_cluster_of_a_version_that_is_not_installed(cluster: Callable[[str], Path]) -> None:
    (finding,) = check_database(load({"data_dir": cluster("12")}))
    assert (finding.level, "PostgreSQL 12" in finding.found) == ("problem", True)


def test_a_folder_that_another_gateway_has(cluster: Callable[[str], Path]) -> None:
    folder = cluster(embedded_versions()[-1])
    with embedded.lock(folder / "lock"):
        well, held = check_database(load({"data_dir": folder}))
    assert (well.level, held.level) == ("ok", "warning")
    assert "another gateway has" in held.found
