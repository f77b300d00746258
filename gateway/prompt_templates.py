"""The files that prompt templates are read from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from adapters.prompt_templates import InvalidTemplates, PromptTemplates
from gateway.text_file import UnreadableFile, text_of


def read_templates(path: Path | None) -> PromptTemplates:
    """The templates that come along, with those of an operator's file in place of them, entry by entry.

    Raises InvalidTemplates, naming the file.
    """
    shipped = resources.files("adapters").joinpath("prompt_templates.yaml").read_text("utf-8")
    if path is None:
        return PromptTemplates.from_yaml(shipped)
    try:
        return PromptTemplates.from_yaml(shipped, text_of(path))
    except (InvalidTemplates, UnreadableFile) as error:
        raise InvalidTemplates(f"{path}: {error}") from error
