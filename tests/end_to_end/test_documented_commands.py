"""docs/chatchat.md is true: its commands print what it says that they print, one after the other.

Its ids and times are others each time; what they stand for is the same wherever they stand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.served import PROGRAM, Gateway, running

TEXT = (Path(__file__).parents[2] / "docs" / "chatchat.md").read_text()
URL = "http://127.0.0.1:8000"
START = "make serve ENGINE=simulated"
START_WITH_USERS = "make serve ENGINE=simulated AUTHENTICATION=yes REGISTRATION=open"

VARYING = [
    (re.compile(r"\b[0-9a-f]{32}\b"), "id"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"), "time"),
    (re.compile(r'(?<="created":)\d{10}\b'), "created"),
]


def commands() -> list[tuple[str, str]]:
    """Each command of the text, and what it is said to print."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = one.partition("\n")
            found.append((command, printed))
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the commands are run, and what they leave."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_the_commands_print_what_is_said(simulated: Gateway, folder: Path) -> None:
    (first, _), *rest = commands()
    assert first == START
    later = rest.index((START_WITH_USERS, ""))
    for command, printed in rest[:later]:
        check(command.replace(URL, simulated.base_url), printed, folder)
    options = ("--engine", "simulated", "--authentication", "--registration", "open")
    with running(folder / "data", *options, program=PROGRAM) as gateway:
        for command, printed in rest[later + 1 :]:
            check(command.replace(URL, gateway.base_url), printed, folder)


def check(command: str, printed: str, folder: Path) -> None:
    """``...`` at the end of what is printed stands for more of it."""
    ended = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, (command, ended.stderr)
    found, expected = comparable(ended.stdout), comparable(printed)
    if expected.endswith("..."):
        expected = expected.removesuffix("...").rstrip()
        found = found[: len(expected)]
    assert found == expected, command


def comparable(text: str) -> str:
    """Without empty lines, and with a number for each id in the order in which they come."""
    text = "\n".join(line for line in text.splitlines() if line.strip())
    for pattern, name in VARYING:
        known: dict[str, str] = {}
        text = pattern.sub(lambda found: known.setdefault(found[0], f"<{name} {len(known)}>"), text)  # noqa: B023
    return text
