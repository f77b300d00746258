from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A process whose child has a child of its own, which outlives it for a moment: an orphan, and then a zombie.
ORPHAN = """
import subprocess, sys, time
import psutil
from gateway.processes import adopt_orphans, end_engine_processes

adopt_orphans()
child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', ''])"
subprocess.run([sys.executable, "-c", child], check=True)
while [process.status() for process in psutil.Process().children()] != [psutil.STATUS_ZOMBIE]:
    time.sleep(0.01)
end_engine_processes()
print(psutil.Process().children())
"""


def test_orphans_of_a_dead_engine_are_let_go_of() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr
