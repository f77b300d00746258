from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A process whose child has a child of its own, which outlives it for a moment: an orphan, and then a zombie.
ORPHAN = """
import subprocess, sys, time
import psutil
from gateway.processes import EngineProcesses, adopt_orphans

adopt_orphans()
child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', ''])"
subprocess.run([sys.executable, "-c", child], check=True)
while [process.status() for process in psutil.Process().children()] != [psutil.STATUS_ZOMBIE]:
    time.sleep(0.01)
EngineProcesses().end()
print(psutil.Process().children())
"""

# A child with shared memory, which is killed.
SHARED = """
import multiprocessing, os
from multiprocessing.shared_memory import SharedMemory
from gateway.processes import EngineProcesses

def child(pipe):
    memory = SharedMemory(create=True, size=4096)
    pipe.send(memory.name)
    pipe.recv()

context = multiprocessing.get_context("fork")
SharedMemory(create=True, size=1).unlink()
ours, theirs = context.Pipe()
process = context.Process(target=child, args=(theirs,))
process.start()
path = "/dev/shm/" + ours.recv()
processes = EngineProcesses()
processes.note()
process.kill()
process.join()
there = os.path.exists(path)
processes.end()
print(there, os.path.exists(path))
"""


def output_of(code: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


def test_orphans_of_a_dead_engine_are_let_go_of() -> None:
    assert output_of(ORPHAN) == "[]"


def test_shared_memory_of_a_dead_engine_is_freed() -> None:
    assert output_of(SHARED) == "True False"
