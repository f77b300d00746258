"""python3 -m tests.fresh [readme] [image]     as root; both where none is named

FRESH_DIR        where the roots are made, about 10 GB; removed at the end. Default: /var/tmp
FRESH_TESTS      what 'make test' runs in the fresh root, as arguments of pytest; none: nothing. Default: all
FRESH_VARIANT    which image is built: cpu (default) or cuda, whose gateway is not started
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fresh import container, readme
from tests.fresh.build import build
from tests.fresh.dockerfile import Unknown
from tests.fresh.root import Failed, Root, remove
from tests.fresh.steps import Wrong, say, step

PROJECT = Path(__file__).parents[2]
ALL = ("readme", "image")

# Its mounts and processes end with it, and are seen nowhere else.
# The first of them is a shell, which buries what others leave behind: a PostgreSQL that was killed lives, to
# its next start, for as long as somebody could ask how it ended.
ALONE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
FIRST = ("bash", "-c", '"$@"; exit $?', "first")


def main(chosen: list[str]) -> int:
    """The exit status."""
    if set(chosen) - set(ALL):
        print(__doc__)
        return 2
    for tool in ("debootstrap", "unshare", "ip"):
        if os.geteuid() != 0 or shutil.which(tool) is None:
            print(f"Needs root and {tool} (Debian: apt-get install debootstrap iproute2 util-linux).")
            return 2
    # As Ctrl-C: what was made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(
        tempfile.mkdtemp(prefix="chatglm-gateway-fresh-", dir=os.environ.get("FRESH_DIR", "/var/tmp"))
    )
    try:
        tree = folder / "tree"
        tree.mkdir()
        committed(tree)
        inside = again("--inside", folder, *chosen or ALL)
        return subprocess.run([*ALONE, *FIRST, *inside], check=False).returncode
    finally:
        remove(folder)


def again(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.fresh", *map(str, arguments)]


def committed(tree: Path) -> None:
    """The tree as git has it."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=PROJECT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)


def inside(folder: Path, chosen: list[str]) -> int:
    """In namespaces of its own. The exit status."""
    tree, base = folder / "tree", Root(folder / "base")
    try:
        with step("debootstrap"):
            base.bootstrap()
        if "readme" in chosen:
            readme.prove(tree, base.copied_to(folder / "readme"))
        if "image" in chosen:
            variant = os.environ.get("FRESH_VARIANT", "cpu")
            with step(f"the Dockerfile, VARIANT={variant}"):
                image = build(tree, base, folder, {"VARIANT": variant})
            if variant == "cpu":
                container.prove(image)
    except (Failed, Unknown, Wrong, subprocess.CalledProcessError) as error:
        say(f"FAILED: {error}")
        return 1
    say("all well")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(inside(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))
