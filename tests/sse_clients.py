"""What reads event streams out there, written anew from descriptions of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.event_streams import EventReader

_LINE_END = re.compile("\r\n|\n|\r")


def event_source(stream: str) -> list[str]:
    """The data of each event, as a browser's EventSource reads it."""
    return [event.data for event in EventReader().feed(stream.encode(errors="surrogatepass"))]


def fetch_event_source(stream: str) -> list[str]:
    """The same of @microsoft/fetch-event-source, which forgets empty lines before others, and tells of
    comments as of events without data."""
    events, data = [], ""
    *lines, _ = _LINE_END.split(stream)
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            events.append(data)
            data = ""
        elif name == "data":
            value = value.removeprefix(" ")
            data = f"{data}\n{value}" if data else value
    return events


def official(chunks: Iterable[str]) -> Iterator[Any]:
    """The objects that Langchain-Chatchat's web UI takes out of what httpx gives it piece by piece
    (webui_pages/utils.py of 0.2.10, _httpx_stream2generator): one piece is one event, and what is none stays
    before all that follows."""
    cache = ""
    for chunk in chunks:
        if not chunk or chunk.startswith(":"):
            continue
        piece = chunk[6:-2] if chunk.startswith("data: ") else chunk
        try:
            value = json.loads(cache + piece)
        except ValueError:
            cache += piece
        else:
            cache = ""
            yield value


def by_line(lines: Iterable[str]) -> Iterator[Any]:
    """The objects that scripts take out of a stream's lines."""
    for line in lines:
        if line:
            yield json.loads(line[6:])
