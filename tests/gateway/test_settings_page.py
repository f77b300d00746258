"""docs/settings.md is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "settings.md").read_text()


def test_the_page_is_as_the_code_makes_it() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "gateway.settings"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == PAGE, "python -m gateway.settings > docs/settings.md"


def test_the_page_has_every_setting_once() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(Settings.model_fields)
