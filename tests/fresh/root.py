"""A Debian of its own in a folder, and programs that run in it.

All mounts and processes belong to namespaces that ``python -m tests.fresh`` makes first: they end with it,
however it ends, and none is ever seen outside.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fresh import machine

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Failed(Exception):
    """A step of a fresh root failed; the message says which."""


@dataclass
class Root:
    """A root file system in ``path``; ``binds`` are folders of this machine that are seen in it too, where
    they are, and can't be written."""

    path: Path
    binds: set[Path] = field(default_factory=set)

    def bootstrap(self, suite: str = "bookworm") -> None:
        """Debian's smallest, from the mirror that this machine's apt has."""
        command = ["debootstrap", "--variant=minbase", suite, str(self.path), mirror()]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"debootstrap:\n{done.stdout}")
        machine.hand_over(self.path)
        self.binds = machine.local_folders()

    def copied_to(self, path: Path) -> Root:
        """Another one with the same content."""
        subprocess.run(["cp", "-a", "--reflink=auto", str(self.path), str(path)], check=True)
        return Root(path, self.binds)

    def inside(self, path: str | Path) -> Path:
        """Where ``path`` of this root lies on the machine."""
        return self.path / str(path).lstrip("/")

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """With /proc, /sys, /dev, /tmp and the binds; all of them gone afterwards."""
        mounts: list[Path] = []

        def mount(*arguments: str, at: str, make: bool = True) -> None:
            target = self.inside(at)
            if make:
                target.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", *arguments, str(target)], check=True)
            mounts.append(target)

        try:
            mount("-t", "proc", "proc", at="/proc")
            mount("--bind", "-o", "ro", "/sys", at="/sys")
            mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", at="/dev")
            for device in DEVICES:
                self.inside(f"/dev/{device}").touch()
                mount("--bind", f"/dev/{device}", at=f"/dev/{device}", make=False)
            mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", at="/dev/pts")
            self.inside("/dev/ptmx").symlink_to("pts/ptmx")
            self.inside("/dev/fd").symlink_to("/proc/self/fd")
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                self.inside(f"/dev/{name}").symlink_to(f"/proc/self/fd/{number}")
            mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev,noexec", "tmpfs", at="/dev/shm")
            for folder in sorted(self.binds):
                mount("--bind", "-o", "ro", str(folder), at=str(folder))
            yield
        finally:
            for target in reversed(mounts):
                subprocess.run(["umount", "--lazy", str(target)], check=True)

    def command(self, *command: str, user: str = "", directory: str = "/") -> list[str]:
        """What runs ``command`` in this root; ``user`` is as in setpriv: ``UID:GID``."""
        changed = ["chroot", str(self.path), "/usr/bin/env", "-C", directory]
        if user:
            uid, _, gid = user.partition(":")
            changed += [
                "setpriv",
                f"--reuid={uid}",
                f"--regid={gid or uid}",
                "--clear-groups",
                "--bounding-set=-all",
            ]
            changed += ["--inh-caps=-all", "--no-new-privs"]
        return [*changed, *command]

    def run(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        user: str = "",
        directory: str = "/",
    ) -> None:
        """To its end, its output shown. Raises Failed."""
        given = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"} | dict(environment or {})
        done = subprocess.run(self.command(*command, user=user, directory=directory), env=given, check=False)
        if done.returncode:
            raise Failed(f"exit status {done.returncode}: {' '.join(command)}")

    def install(self, *packages: str) -> None:
        """Debian's packages, by name."""
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        self.run("apt-get", "update", "-qq", environment=environment)
        self.run(
            "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, environment=environment
        )


def mirror() -> str:
    """Where this machine's apt gets Debian from."""
    listed = [*Path("/etc/apt").glob("sources.list.d/*.sources"), Path("/etc/apt/sources.list")]
    for path in listed:
        if path.exists() and (found := re.search(r"^(?:URIs:|deb)\s+(\S+)", path.read_text(), re.MULTILINE)):
            return found[1]
    raise Failed("This machine's apt names no mirror of Debian.")


def remove(folder: Path) -> None:
    """A folder and all below it, unless something is mounted there. Raises Failed."""
    if any(
        line.split()[4].startswith(str(folder))
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ):
        raise Failed(f"{folder} was not removed: something is mounted there")
    shutil.rmtree(folder)
