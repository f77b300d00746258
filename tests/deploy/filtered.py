"""The gateway under the unit's filter of system calls, as systemd sets it."""

from __future__ import annotations

import ctypes
import errno
import re
import subprocess
from pathlib import Path

from gateway.cli import main

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "chatglm-gateway.service"

# seccomp.h
LIBRARY = "libseccomp.so.2"
REFUSE = 0x00050000 | errno.EPERM
ALLOW = 0x7FFF0000


def allowed() -> set[str]:
    """The system calls of the unit's SystemCallFilter, its groups resolved."""
    lines = re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE)
    return {call for line in lines for name in line.split() for call in calls(name)}


def calls(name: str) -> set[str]:
    """Those that one name stands for, which may be a group of groups."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    members = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return {call for member in members for call in calls(member)}


def refuse_all_but(names: set[str]) -> None:
    """For this process and all below it. Raises OSError."""
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(REFUSE)))
    for name in names:
        # Below 0: other processors have it.
        if (number := library.seccomp_syscall_resolve_name(name.encode())) >= 0:
            library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, 0)
    if failed := library.seccomp_load(context):
        raise OSError(-failed, "seccomp_load")


if __name__ == "__main__":
    refuse_all_but(allowed())
    main()
