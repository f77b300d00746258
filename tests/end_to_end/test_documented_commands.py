"""docs/chatchat.md is true: its commands print what it says that they print, one after the other.

Its ids and times are others each time; what they stand for is the same wherever they stand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.served import Gateway, running

TEXT = (Path(__file__).parents[2] / "docs" / "chatchat.md").read_text()
URL = "http://127.0.0.1:8000"
STARTS: dict[str, dict[str, str]] = {
    "make serve ENGINE=simulated": {},
    "make serve ENGINE=simulated AUTHENTICATION=yes": {"GATEWAY_AUTHENTICATION": "true"},
}

VARYING = [
    (re.compile(r"\b[0-9a-f]{32}\b"), "id"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00|Z)?"), "time"),
    (re.compile(r'(?<="created": )\d{10}\b'), "created"),
    (re.compile(r'(?<="created":)\d{10}\b'), "created"),
]


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the text, and what it is said to print."""
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *printed = re.split(r"(?<!\\)\n", one, maxsplit=1)
            yield command, printed[0] if printed else ""


def test_the_commands_print_what_is_said() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    run = 0
    try:
        with ExitStack() as started:
            gateway: Gateway | None = None
            for command, printed in commands():
                if (settings := STARTS.get(command)) is not None:
                    started.close()
                    data_dir = folder / str(run)
                    gateway = started.enter_context(running(data_dir, "--engine", "simulated", **settings))
                else:
                    assert gateway is not None
                    check(command.replace(URL, gateway.base_url), printed, folder)
                    run += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert run > 10


def check(command: str, printed: str, folder: Path) -> None:
    """``...`` at the end of what is printed stands for more of it."""
    ended = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
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
