"""The files that prompt templates are read from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from adapters.prompt_templates import InvalidTemplates, PromptTemplates

MOST_BYTES = 1024 * 1024


def read_templates(path: Path | None) -> PromptTemplates:
    """The templates that come along, with those of an operator's file in place of them, entry by entry.

    Raises InvalidTemplates, naming the file.
    """
    shipped = resources.files("adapters").joinpath("prompt_templates.yaml").read_text("utf-8")
    if path is None:
        return PromptTemplates.from_yaml(shipped)
    try:
        return PromptTemplates.from_yaml(shipped, _text(path))
    except InvalidTemplates as error:
        raise InvalidTemplates(f"{path}: {error}") from error


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise InvalidTemplates("there is no such file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidTemplates(f"can't be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise InvalidTemplates(f"is larger than {MOST_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidTemplates("is not UTF-8") from error
