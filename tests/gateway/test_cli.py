"""The command line's process, before its commands run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.served import clean_environment

ROOT = Path(__file__).parents[2]

# Imports go on and on, as they do on a cold disk.
IMPORTING = """
import signal, sys

class Endless:
    def find_spec(self, name, path=None, target=None):
        if name == "gateway.server":
            print("importing", flush=True)
            signal.pause()

sys.meta_path.insert(0, Endless())
from gateway.cli import main
main()
"""


def test_sigterm_is_heeded_while_the_program_is_still_imported() -> None:
    """By a handler: the first process of a container is not ended by what SIGTERM does elsewhere."""
    command = [sys.executable, "-c", IMPORTING, "serve", "--engine", "simulated"]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"importing\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM
        finally:
            process.kill()
