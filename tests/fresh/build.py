"""The Dockerfile's steps, run as they stand there, in Debian roots in place of its base image."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.fresh import machine
from tests.fresh.dockerfile import Ignored, Instruction, Stage, Unknown, assignments, replaced, stages
from tests.fresh.root import PATH, Root
from tests.fresh.steps import step

OF_A_RUN = ("/root/.cache", "/etc/pip.conf")


@dataclass
class Image:
    """What a build leaves: a root, and how a container of it is started."""

    root: Root
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    directory: str = "/"
    user: str = ""
    volume: str = ""
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"

    def copied_to(self, path: Path) -> Image:
        """What a stage that begins with this one begins with."""
        root = self.root.copied_to(path)
        return Image(root, dict(self.environment), self.directory, self.user, self.volume)


def build(tree: Path, base: Root, folder: Path, arguments: Mapping[str, str]) -> Image:
    """The last stage of the Dockerfile in ``tree``, its roots made in ``folder``; ``arguments`` as given to
    ``docker build --build-arg``. Raises Unknown, Failed."""
    ignored = Ignored((tree / ".dockerignore").read_text())
    context = folder / "context"
    for path in filter(Path.is_file, tree.rglob("*")):
        if not ignored(PurePosixPath(path.relative_to(tree))):
            target = context / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    defaults, found = stages((tree / "Dockerfile").read_text())
    images: dict[str, Image] = {}
    for stage in found:
        before = images.get(stage.base)
        if before is None and stage.base != defaults["BASE"]:
            raise Unknown(f"FROM {stage.base}")
        where = folder / f"stage-{stage.name}"
        images[stage.name] = image = before.copied_to(where) if before else Image(base.copied_to(where))
        with image.root.mounted():
            build_stage(stage, image, context, images, arguments)
    return images[found[-1].name]


def build_stage(
    stage: Stage, image: Image, context: Path, images: Mapping[str, Image], arguments: Mapping[str, str]
) -> None:
    """All instructions of one stage."""
    chosen: dict[str, str] = {}
    for one in stage.instructions:
        with step(f"[{stage.name}] {one.name} {one.arguments[:90]}"):
            values = chosen | image.environment
            if one.name == "ARG":
                name, _, default = one.arguments.partition("=")
                chosen[name] = arguments.get(name, default)
            elif one.name == "RUN":
                run(image, one, values)
            elif one.name == "COPY":
                copy(image, one, context, images)
            elif one.name == "ENV":
                image.environment |= assignments(one.arguments, values)
            elif one.name == "WORKDIR":
                image.directory = replaced(one.arguments, values)
                image.root.inside(image.directory).mkdir(parents=True, exist_ok=True)
            elif one.name == "USER":
                image.user = one.arguments
            elif one.name == "VOLUME":
                image.volume = one.arguments
            elif one.name == "HEALTHCHECK":
                image.health = Instruction("CMD", one.arguments.removeprefix("CMD ")).words
            elif one.name == "CMD":
                image.command = one.words
            elif one.name == "STOPSIGNAL":
                image.stop_signal = one.arguments


def run(image: Image, one: Instruction, values: Mapping[str, str]) -> None:
    """A RUN. Its secrets and caches are this machine's settings and a folder of the root: neither is in what
    a later stage copies, and both are gone from what this one leaves."""
    targets = [dict(part.split("=") for part in flag.split(","))["target"] for _, flag in one.flags]
    if unknown := set(targets) - set(OF_A_RUN):
        raise Unknown(f"RUN with mounts at {unknown}")
    image.root.run(
        "/bin/sh", "-c", one.arguments,
        environment=machine.variables() | dict(values), user=image.user, directory=image.directory,
    )  # fmt: skip
    for target in map(image.root.inside, targets):
        if target.is_dir():
            shutil.rmtree(target)


def copy(image: Image, one: Instruction, context: Path, images: Mapping[str, Image]) -> None:
    """A COPY: files into a folder, or a folder's content into a folder."""
    *sources, last = one.words
    name = one.flag("from")
    origin = images[name].root.path if name else context
    target = image.root.inside(Path(image.directory) / last)
    target.parent.mkdir(parents=True, exist_ok=True)
    for source in (origin / source.lstrip("/") for source in sources):
        if source.is_dir():
            target.mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
        else:
            if last.endswith("/"):
                target.mkdir(exist_ok=True)
            shutil.copy(source, target)
