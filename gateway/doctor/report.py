"""What the doctor says, to people and to machines."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version

from gateway.doctor.finding import Finding, Level
from gateway.logs.formats import printable, without_secrets

MARKS: dict[Level, str] = {"ok": "ok", "warning": "!!", "problem": "XX"}
COLORS: dict[Level, str] = {"ok": "32", "warning": "33", "problem": "31"}
WIDTH = 110

Topics = Iterable[tuple[str, Sequence[Finding]]]


def tell(topics: Topics) -> bool:
    """Print one line for each finding, and below it what to do; whether there was no problem."""
    counts = {"ok": 0, "warning": 0, "problem": 0}
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"chatglm-gateway {version('chatglm-gateway')}: what would keep it from running well here\n")
    for topic, findings in topics:
        for finding in findings:
            counts[finding.level] += 1
            print("\n".join(lines_of(topic, finding, colored)), flush=True)
    told = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in ("problem", "warning")]
    print(f"\n{', '.join(told)}." if counts["problem"] or counts["warning"] else "\nAll is well.")
    return counts["problem"] == 0


def lines_of(topic: str, finding: Finding, colored: bool) -> list[str]:
    """Those of one finding."""
    mark = MARKS[finding.level]
    mark = f"\x1b[{COLORS[finding.level]}m{mark}\x1b[0m" if colored else mark
    first, *others = wrapped(finding.found)
    lines = [f"{mark}  {topic + ':':<16}{first}", *(" " * 20 + other for other in others)]
    if finding.remedy:
        do = wrapped(finding.remedy)
        lines += [f"{' ' * 20}-> {do[0]}", *(" " * 23 + more for more in do[1:])]
    return lines


def wrapped(text: str) -> list[str]:
    """``text`` in lines as wide as a terminal has room for."""
    return textwrap.wrap(
        printable(without_secrets(text)), WIDTH - 24, break_long_words=False, break_on_hyphens=False
    ) or [""]


def tell_json(topics: Topics) -> bool:
    """Print one object; whether there was no problem."""
    checks = [
        asdict(finding) | {"topic": topic, "found": without_secrets(finding.found)}
        for topic, findings in topics
        for finding in findings
    ]
    well = all(check["level"] != "problem" for check in checks)
    print(json.dumps({"ok": well, "version": version("chatglm-gateway"), "checks": checks}, indent=2))
    return well
