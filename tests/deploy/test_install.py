"""deploy/install.sh: what uv is told of pip's settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "deploy" / "install.sh").read_text()

FILE = """
[global]
index-url = https://index.example.com/simple
find-links =
    /wheels/a
    /wheels/b
cert = /etc/ours/ca.pem
"""


def told(folder: Path, **given: str) -> dict[str, str]:
    """uv's variables, with FILE as pip's configuration, and what else this machine has."""
    (found,) = re.findall(r"^# uv does not read.*?(?=^install\(\))", TEXT, re.MULTILINE | re.DOTALL)
    file = folder / "pip.conf"
    file.write_text(FILE)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PIP_CONFIG_FILE": str(file)} | given
    script = f"set -euo pipefail\npython={sys.executable}\n{found}\nenv"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    lines = [line.split("=", 1) for line in done.stdout.splitlines() if line.startswith(("UV_", "SSL_"))]
    return dict(lines)


def test_what_a_file_of_pip_s_says_uv_is_told(tmp_path: Path) -> None:
    assert told(tmp_path) == {
        "UV_DEFAULT_INDEX": "https://index.example.com/simple",
        "UV_FIND_LINKS": "/wheels/a,/wheels/b",
        "SSL_CERT_FILE": "/etc/ours/ca.pem",
    }


def test_variables_come_before_files(tmp_path: Path) -> None:
    found = told(
        tmp_path, PIP_CERT="/mine.pem", PIP_FIND_LINKS="/c /d", PIP_INDEX_URL="https://localhost/simple"
    )
    assert found == {
        "UV_DEFAULT_INDEX": "https://localhost/simple",
        "UV_FIND_LINKS": "/c,/d",
        "SSL_CERT_FILE": "/mine.pem",
    }
    # uv's own, which pip does not know.
    assert told(tmp_path, SSL_CERT_FILE="/uv.pem")["SSL_CERT_FILE"] == "/uv.pem"
