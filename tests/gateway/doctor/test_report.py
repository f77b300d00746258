from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.doctor.examination import Check, examine, findings_of
from gateway.doctor.finding import Finding, in_units, ok, problem, warning
from gateway.doctor.report import lines_of, tell, tell_json
from gateway.settings import InvalidSetting

TOPICS = [
    ("One", [ok("fine")]),
    ("Two", [warning("so so", "do this"), problem("at postgresql://u:s3cret@h/d\nx", "do that " * 30)]),
]


def doctor(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env=environment)


def test_people_are_told_one_line_each_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(TOPICS) is False
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == [
        "ok  One:            fine",
        "!!  Two:            so so",
        "                    -> do this",
        r"XX  Two:            at postgresql://u:***@h/d\nx",
    ]
    assert lines[-1] == "1 problem, 1 warning."
    assert all(len(line) <= 110 for line in lines)
    assert tell(TOPICS[:1]) is True
    assert capsys.readouterr().out.endswith("\nAll is well.\n")


def test_machines_are_told_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell_json(TOPICS) is False
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["checks"][1] == {"topic": "Two", "level": "warning", "found": "so so", "remedy": "do this"}
    assert "s3cret" not in json.dumps(told)


def test_colors_are_for_terminals() -> None:
    assert lines_of("One", ok("fine"), colored=True)[0].startswith("\x1b[32mok\x1b[0m  One:")


def test_a_check_that_breaks_or_hangs_keeps_no_other_from_running() -> None:
    never = threading.Event()

    def breaks() -> Iterator[Finding]:
        yield ok("first")
        raise ZeroDivisionError("of mine")

    def hangs() -> Iterator[Finding]:
        yield ok("first")
        never.wait()

    first, broken = findings_of(Check("x", breaks))
    assert (first.level, broken.level) == ("ok", "warning")
    assert "ZeroDivisionError: of mine" in broken.found
    first, late = findings_of(Check("x", hangs), seconds=1)
    assert (first.level, late.level) == ("ok", "problem")
    never.set()


def test_a_setting_that_can_not_be_used_is_a_problem_among_others() -> None:
    topics = dict(examine(InvalidSetting("port (environment PORT): not a number")))
    assert [finding.level for finding in topics["Settings"]] == ["problem"]
    assert {"Settings", "Python", "Clock"} == topics.keys()


def test_the_command_ends_with_1_where_there_is_a_problem_and_has_changed_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    well = doctor("--engine", "simulated", "--port", "0", "--data-dir", str(data), "--json")
    told: dict[str, Any] = json.loads(well.stdout)
    assert well.exit_code == 0, well.output
    assert told["ok"] is True
    assert {check["topic"] for check in told["checks"]} == {
        *("Settings", "Python", "Clock", "Data directory", "Database", "Port", "Access", "Open files"),
        *("Packages", "GPU", "Model", "Memory"),
    }
    assert not data.exists()
    broken = doctor("--model", str(tmp_path), "--data-dir", str(data))
    assert broken.exit_code == 1
    assert "it has no config.json" in " ".join(broken.stdout.split())
    assert not data.exists()


def test_sizes_are_for_people() -> None:
    assert [in_units(size) for size in (0, 1023, 1024, 12.5 * 1024**3, 3 * 1024**4)] == [
        *("0 bytes", "1023 bytes", "1.0 KiB", "12.5 GiB", "3.0 TiB")
    ]
