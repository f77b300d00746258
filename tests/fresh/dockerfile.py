"""A Dockerfile as a list of stages: as much of its language as ours uses, and no more.

https://docs.docker.com/reference/dockerfile/ : what is not known here is refused, not skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

KNOWN = {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER"}
KNOWN |= {"VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD"}


class Unknown(Exception):
    """Something that is not read here."""


@dataclass(frozen=True)
class Instruction:
    """``flags`` are what stands before the arguments, as ``--from=build``: each name may come many times."""

    name: str
    arguments: str
    flags: tuple[tuple[str, str], ...] = ()

    def flag(self, name: str) -> str | None:
        """The value of a flag that comes once."""
        return dict(self.flags).get(name)

    @property
    def words(self) -> list[str]:
        """The arguments of an instruction in its exec form (JSON), or separated by spaces."""
        if self.arguments.startswith("["):
            words: list[str] = json.loads(self.arguments)
            return words
        return self.arguments.split()


@dataclass
class Stage:
    """What is between one FROM and the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def instructions(text: str) -> Iterator[Instruction]:
    """Comments left out, continued lines joined. Raises Unknown."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name not in KNOWN:
            raise Unknown(line)
        flags = []
        while match := re.match(r"--([\w-]+)=(\S+)\s+", rest.lstrip()):
            flags.append((match[1], match[2]))
            rest = rest.lstrip()[match.end() :]
        yield Instruction(name, rest.strip(), tuple(flags))


def stages(text: str) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage with their defaults, and the stages. Raises Unknown."""
    defaults: dict[str, str] = {}
    found: list[Stage] = []
    for one in instructions(text):
        if one.name == "FROM":
            match = re.fullmatch(r"(\S+) AS (\S+)", one.arguments)
            if match is None:
                raise Unknown(f"FROM {one.arguments}")
            found.append(Stage(replaced(match[1], defaults), match[2]))
        elif found:
            found[-1].instructions.append(one)
        elif one.name == "ARG":
            name, _, default = one.arguments.partition("=")
            defaults[name] = default
        else:
            raise Unknown(f"{one.name} before the first FROM")
    return defaults, found


def assignments(arguments: str, values: Mapping[str, str]) -> dict[str, str]:
    """The names and values of an ENV, with variables of before. Raises Unknown."""
    words = arguments.split()
    if any("=" not in word or '"' in word or "'" in word for word in words):
        raise Unknown(f"ENV {arguments}")
    return {name: replaced(value, values) for name, _, value in (word.partition("=") for word in words)}


def replaced(text: str, values: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` with their values."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda name: values.get(name[1] or name[2], ""), text)


class Ignored:
    """What a .dockerignore keeps out of the build: the last line that fits decides."""

    def __init__(self, text: str) -> None:
        lines = map(str.strip, text.splitlines())
        self._patterns = [line for line in lines if line and not line.startswith("#")]

    def __call__(self, path: PurePosixPath) -> bool:
        """Whether a file of the build's folder is left out."""
        ignored = False
        names = [str(path), *map(str, path.parents)]
        for pattern in self._patterns:
            wanted = pattern.removeprefix("!")
            if any(fits(name, wanted) for name in names):
                ignored = not pattern.startswith("!")
        return ignored


def fits(name: str, pattern: str) -> bool:
    """Whether one path fits one pattern; ``**/`` stands for any folders, ``*`` for anything within one."""
    if pattern.startswith("**/"):
        parts = PurePosixPath(name).parts
        return any(fits("/".join(parts[start:]), pattern[3:]) for start in range(len(parts)))
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)
