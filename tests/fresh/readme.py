"""``make serve`` and ``make test``, from nothing, with the packages that the README names."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from pathlib import Path

from tests.fresh import machine
from tests.fresh.container import others
from tests.fresh.root import PATH, Root
from tests.fresh.steps import check, step
from tests.fresh.talk import ask, wait_for

# README.md, "You need"; make itself installs libnuma1, as root.
PACKAGES = ("make", "python3", "python3-venv", "curl")
TREE = "/root/chatglm-gateway"
START_SECONDS = 2400.0
STOP_SECONDS = 120.0


def prove(tree: Path, root: Root) -> None:
    """Both commands. FRESH_TESTS: what ``make test`` runs in place of everything, as arguments of pytest;
    ``none``: nothing. Raises Wrong, Failed."""
    with step(f"apt-get install {' '.join(PACKAGES)}"):
        root.install(*PACKAGES)
    subprocess.run(["cp", "-a", str(tree), str(root.inside(TREE))], check=True)
    with root.mounted():
        serve(root)
        test(root, os.environ.get("FRESH_TESTS", ""))


def serve(root: Root) -> None:
    """Until it answers, and until it has ended."""
    url = f"http://127.0.0.1:{free_port()}"
    command = root.command("make", "serve", f"PORT={url.rpartition(':')[2]}", directory=TREE)
    with step("make serve"):
        gateway = subprocess.Popen(command, env=environment())
        wait_for(lambda: gateway.poll() is not None or answer(url)[0] == 200, START_SECONDS)
        code, text = answer(url)
        check(code == 200 and "Paris" in text, f"it answers: {text!r}")
    with step("SIGTERM"):
        gateway.send_signal(signal.SIGTERM)
        # make hands the signal on, waits, and then ends by it too.
        check(gateway.wait(STOP_SECONDS) == -signal.SIGTERM, "it ends")
        check(wait_for(lambda: not others(), 5), f"no process is left {others()}")


def test(root: Root, chosen: str) -> None:
    """Everything, or what was ``chosen``."""
    if chosen == "none":
        return
    with step(f"make test {chosen}"):
        if not chosen:
            root.run("make", "test", environment=environment(), directory=TREE)
            return
        root.run("make", "install", environment=environment(), directory=TREE)
        words = [".venv/bin/python", "-m", "pytest", *shlex.split(chosen)]
        root.run(*words, environment=environment(), directory=TREE)


def environment() -> dict[str, str]:
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"} | machine.variables()


def answer(url: str) -> tuple[int, str]:
    try:
        return ask(url)
    except OSError as error:
        return 0, str(error)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
