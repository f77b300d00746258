"""Files of text that an operator writes."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 1024 * 1024


class UnreadableFile(ValueError):
    """A file that can't be used; the message says why, and leaves out its name."""


def text_of(path: Path) -> str:
    """A file's UTF-8 text, at most MOST_BYTES of it. Raises UnreadableFile."""
    try:
        if not path.is_file():
            raise UnreadableFile("there is no such file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableFile(f"can't be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise UnreadableFile(f"is larger than {MOST_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile("is not UTF-8") from error
