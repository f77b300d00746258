"""What of this machine a fresh root needs to reach the package registries: passed in, never kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = re.compile(
    r"(PIP|UV|NPM_CONFIG)_\w+|(HTTPS?|NO|ALL)_PROXY|\w*(SSL|CA)_?(CERT|BUNDLE)\w*", re.IGNORECASE
)
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

# Where it does not stand in the way of Debian's own.
COPIED_BUNDLE = Path("/etc/ssl/certs-of-the-machine.crt")

FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/npmrc")
OF_HOME = (".config/pip/pip.conf", ".pip/pip.conf", ".config/uv/uv.toml", ".npmrc")
APT = ("sources.list", "sources.list.d", "keyrings", "trusted.gpg.d", "auth.conf.d")


def variables() -> dict[str, str]:
    """Those of the environment that say where packages come from, and whom to trust."""
    return {
        name: str(COPIED_BUNDLE) if value == str(BUNDLE) else value
        for name, value in os.environ.items()
        if VARIABLE.fullmatch(name)
    }


def local_folders() -> set[Path]:
    """Folders of this machine that pip takes packages from."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    named = re.findall(r"(?:file://)?(/[^\s'\"]+)", re.sub(r"\w+://[^/\s]+\S*", "", listed))
    # The pages of an index lead to files beside it.
    folders = (path.parent if path.name == "simple" else path for path in map(Path, named))
    return {path for path in folders if path.is_dir()}


def hand_over(root: Path) -> None:
    """Copy the settings of the registries' clients into ``root``: of a root that is thrown away."""
    for name in FILES:
        copy(Path(name), root)
    for name in OF_HOME:
        copy(Path.home() / name, root, root / "root" / name)
    # As debootstrap wrote it: the same again.
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for name in APT:
        copy(Path("/etc/apt") / name, root)
    for path in Path("/etc/apt/apt.conf.d").glob("*"):
        if "Acquire" in path.read_text():
            copy(path, root)
    copy(Path("/usr/local/share/ca-certificates"), root)
    if BUNDLE.exists():
        copy(BUNDLE, root, root / COPIED_BUNDLE.relative_to("/"))


def copy(source: Path, root: Path, target: Path | None = None) -> None:
    """To the same place below ``root``, where it is not told another; nothing where there is none."""
    target = target or root / source.relative_to("/")
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy(source, target)
