"""The built image's command, as a container would run it: a user without rights, a root that can't be
written, a /tmp in memory, one volume, no network but its own loopback."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fresh.build import Image
from tests.fresh.steps import check, say, step
from tests.fresh.talk import ask, status, stream, wait_for

# sched.h
CLONE_NEWNET = 0x40000000

URL = "http://127.0.0.1:8000"
START_SECONDS = 900.0
STOP_SECONDS = 120.0


def prove(image: Image) -> None:
    """Started twice on the same volume. Raises Wrong, Failed."""
    leave_network()
    volume = image.root.path.with_name("volume")
    subprocess.run(["cp", "-a", str(image.root.inside(image.volume)), str(volume)], check=True)
    with contained(image, volume):
        key = first_time(image)
        second_time(image, key)
        say(f"left in /tmp: {names(image.root.inside('/tmp'))}")
    say(f"in the volume: {names(volume)}")


def leave_network() -> None:
    """This process and all below it: nothing is reached any more but they themselves."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def first_time(image: Image) -> str:
    """With an empty volume: everything is set up. Gives a key."""
    with step("the first start, on an empty volume"):
        gateway = start(image)
        healthy(image, gateway)
    check(ask(URL)[0] == 401, "without a key the answer is 401")
    made = subprocess.run(
        command(image, "chatglm-gateway", "keys", "create", "--user", "me"),
        env=image.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = made.stdout.strip()
    answers(key)
    stop(image, gateway)()
    return key


def second_time(image: Image, key: str) -> None:
    """With the volume of the first time."""
    with step("the second start, on the same volume"):
        gateway = start(image)
        healthy(image, gateway)
    answers(key)
    events = stream(URL, key)
    next(events)
    ended = stop(image, gateway)
    *_, last = events
    check(last == "[DONE]", "the answer that it was giving came to its end")
    ended()


def answers(key: str) -> None:
    code, text = ask(URL, key)
    check(code == 200 and "Paris" in text, f"with a key it answers: {text!r}")


@contextmanager
def contained(image: Image, volume: Path) -> Iterator[None]:
    """The root as a container's."""
    root = image.root
    root.binds = set()
    at = str(root.path)
    subprocess.run(["mount", "--bind", at, at], check=True)
    try:
        with root.mounted():
            tmpfs = ["mount", "-t", "tmpfs", "-o", "mode=1777,nosuid,nodev,noexec,size=1g", "tmpfs"]
            subprocess.run([*tmpfs, str(root.inside("/tmp"))], check=True)
            subprocess.run(["mount", "--bind", str(volume), str(root.inside(image.volume))], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)
            try:
                yield
            finally:
                for path in (image.volume, "/tmp"):
                    subprocess.run(["umount", "--lazy", str(root.inside(path))], check=True)
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def command(image: Image, *words: str) -> list[str]:
    return image.root.command(*words, user=image.user, directory=image.directory)


def start(image: Image) -> subprocess.Popen[bytes]:
    gateway = subprocess.Popen(command(image, *image.command), env=image.environment)
    check(not is_healthy(image), "the health check fails while it starts")
    return gateway


def is_healthy(image: Image) -> bool:
    """What the health check of the image says."""
    done = subprocess.run(
        command(image, *image.health), env=image.environment, stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0


def healthy(image: Image, gateway: subprocess.Popen[bytes]) -> None:
    wait_for(lambda: gateway.poll() is not None or is_healthy(image), START_SECONDS)
    check(gateway.poll() is None and is_healthy(image), "the health check passes")
    check(status(f"{URL}/health/live") == 200, "the port answers")


def stop(image: Image, gateway: subprocess.Popen[bytes]) -> Callable[[], None]:
    """Send the image's signal; gives what checks that it has ended."""
    gateway.send_signal(getattr(signal, image.stop_signal))

    def ended() -> None:
        check(gateway.wait(STOP_SECONDS) == 0, f"{image.stop_signal} ends it, with status 0")
        check(wait_for(lambda: not others(), 5), f"no process is left {others()}")

    return ended


def others() -> list[str]:
    """The living processes of this namespace, but for those of the proof itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        # A process that has ended, and was not asked for, has none.
        if line and "tests.fresh" not in line:
            found.append(f"{folder.name} {line}")
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
