"""The program as an operator types it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from persistence.database import Database
from persistence.embedded import lock
from tests.end_to_end.served import clean_environment
from tests.persistence.past import row_at, write


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment() | environment,
    )


def test_help_names_the_commands_without_loading_the_rest() -> None:
    helped = run("--help")
    assert helped.returncode == 0
    for command in ("serve", "settings", "migrate", "usage"):
        assert command in helped.stdout
    heavy = "{'vllm', 'torch', 'fastapi', 'sqlalchemy', 'pydantic'}"
    check = f"import sys, gateway.cli; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "set()\n"


def test_settings_show_value_default_and_source_and_mask_secrets() -> None:
    shown = run("settings", PORT="9000", DATABASE_URL="postgresql://me:hunter2@db/rows")
    assert shown.returncode == 0
    assert "port = 9000\n" in shown.stdout
    assert "default: 8000; from: environment PORT; set by: GATEWAY_PORT, PORT" in shown.stdout
    assert "postgresql://me:***@db/rows" in shown.stdout
    assert "hunter2" not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "99999"], {}, "port (command line)"),
        ([], {"GATEWAY_PORT": "x"}, "port (environment GATEWAY_PORT)"),
        ([], {"LOG_LEVEL": "loud"}, "log_level (environment LOG_LEVEL)"),
        (["--engine", "magic"], {}, "engine (command line)"),
        (["--model", "/nowhere"], {}, "model"),
        (["--engine-args", "{oops"], {}, "engine_args (command line)"),
        (["--engine-args", "[1]"], {}, "engine_args (command line)"),
        ([], {"DATABASE_URL": "mysql://h/d"}, "database_url (environment DATABASE_URL)"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line_that_names_it(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    ended = run("serve", *arguments, **environment)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"Invalid setting: {named}")


def test_usage_prints_the_sums_of_the_days_up_to_today() -> None:
    now = datetime.now(UTC)

    async def fill(folder: str) -> None:
        database = Database(None, Path(folder))
        await database.connect()
        await database.migrate()
        await write(database, [row_at(now), row_at(now), row_at(now - timedelta(days=40))])
        await database.close()

    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        asyncio.run(fill(folder))
        month, all_days = (
            run("usage", "--data-dir", folder, *more).stdout.splitlines() for more in ([], ["--days", "50"])
        )
        assert len(month) == 3
        assert month[1].split() == [
            f"{now:%Y-%m-%d}", "m", "/v1/chat/completions", "completed", "2", "16", "12", "0"
        ]  # fmt: skip
        assert month[2].split() == ["total", "2", "16", "12", "0"]
        assert all_days[-1].split() == ["total", "3", "24", "18", "0"]


def test_usage_of_a_data_directory_that_a_gateway_has_says_so_in_one_line(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"):
        refused = run("usage", "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert f"{tmp_path} is in use by another gateway" in refused.stderr
