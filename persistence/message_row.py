"""A row on its way: made by a request, encoded once, written to PostgreSQL or kept in the journal.

``MessageRow`` is what a request knows of itself. ``encoded`` turns it into a ``Record``: the values of
COLUMNS as the driver takes them. ``WRITE`` writes many records in one statement::

    a row that is not there          is inserted, its conversation too
    running, lost                    gets the end that a closed record tells
    any other                        stays as it is

so records may be written in any order and any number of times: what a closed row says never changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from persistence.content_policy import FULL, ContentPolicy
from persistence.exact_text import json_to_column, to_column
from persistence.storable import INT32, storable, storable_count, storable_text


@dataclass(slots=True, eq=False)
class MessageRow:
    """One request that reached the engine; the columns are described in ``tables``. Times are milliseconds.

    ``query``, ``response``, ``messages`` and ``details`` are its text, kept apart; ``meta_data`` has none.
    """

    endpoint: str
    model: str
    request_id: str
    query: str
    chat_type: str
    conversation_id: str | None = None
    user_id: UUID | None = None
    meta_data: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)
    create_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: str = "running"
    finish_reason: str | None = None
    response: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float | None = None
    ttft_ms: float | None = None
    duration_ms: float | None = None
    error: str | None = None

    @property
    def characters(self) -> int:
        """Of its text, about."""
        return len(self.query) + len(self.response) + _characters(self.messages) + _characters(self.details)

    def snapshot(self) -> MessageRow:
        """It as it is now, whatever its request writes into it from now on."""
        return replace(self, meta_data=dict(self.meta_data), details=dict(self.details))


def _characters(value: object) -> int:
    match value:
        case str():
            return len(value)
        case dict():
            return sum(map(_characters, value.values()))
        case [int(), *_]:
            # Token ids.
            return 6 * len(value)
        case list():
            return sum(map(_characters, value))
        case _:
            return 0


# The columns that a record has a value for, with PostgreSQL's types; the last four are message_content's.
COLUMNS = {
    "id": "uuid",
    "create_time": "timestamptz",
    "conversation_id": "text",
    "user_id": "uuid",
    "chat_type": "text",
    "endpoint": "text",
    "model": "text",
    "request_id": "text",
    "gateway_id": "int4",
    "status": "text",
    "finish_reason": "text",
    "prompt_tokens": "int4",
    "completion_tokens": "int4",
    "cached_tokens": "int4",
    "queue_ms": "float8",
    "ttft_ms": "float8",
    "duration_ms": "float8",
    "error": "text",
    "meta_data": "jsonb",
    "query": "text",
    "response": "text",
    "messages": "jsonb",
    "details": "jsonb",
}
_NAMES = list(COLUMNS)
_ARRAYS = ", ".join(f"${place}::{type_}[]" for place, type_ in enumerate(COLUMNS.values(), 1))
_MESSAGE, _CONTENT = _NAMES[:-4], ["id", *_NAMES[-4:]]
# What is known only at the end.
_CLOSED = _NAMES[_NAMES.index("status") : _NAMES.index("meta_data") + 1]
_STATUS, _QUERY = _NAMES.index("status"), _NAMES.index("query")

# In meta_data: its conversation was deleted. The row stays and counts; what was said, and by whom, has gone.
DELETED = "deleted"
_IS_DELETED = f"message.meta_data ? '{DELETED}'"
_ENDS = {name: f"excluded.{name}" for name in _CLOSED} | {
    "error": f"CASE WHEN {_IS_DELETED} THEN NULL ELSE excluded.error END",
    "meta_data": f"CASE WHEN {_IS_DELETED} THEN message.meta_data ELSE excluded.meta_data END",
}

# For the connection that runs WRITE. Its plan, and those of the foreign keys behind it, are made once: that
# takes longer than to write a row. The tables may be empty then, and it must not be what is best for these.
SESSION = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off"

# Only names of our own go into the statement. All who write lock in one order, conversations before messages,
# each by id, so none waits for another in a circle. A conversation that was deleted while a message of it was
# being answered does not come back with the message's end, nor does its text. Subqueries that give one value
# look in an index, once for each record, however large the tables are.
WRITE = f"""
WITH record AS (
    SELECT * FROM unnest({_ARRAYS}) AS record ({", ".join(_NAMES)})
), known AS (
    SELECT (SELECT id FROM conversation WHERE id = named.id FOR KEY SHARE) AS id
    FROM (SELECT DISTINCT conversation_id AS id FROM record ORDER BY id) AS named
), unknown AS (
    INSERT INTO conversation (id, user_id, chat_type, create_time)
    SELECT DISTINCT ON (conversation_id) conversation_id, user_id, chat_type, create_time FROM record
    WHERE conversation_id IS NOT NULL AND conversation_id NOT IN (SELECT id FROM known WHERE id IS NOT NULL)
        AND (SELECT id FROM message WHERE id = record.id) IS NULL
    ORDER BY conversation_id, record.id
    ON CONFLICT (id) DO UPDATE SET chat_type = conversation.chat_type RETURNING id
), written AS (
    INSERT INTO message ({", ".join(_MESSAGE)}) SELECT {", ".join(_MESSAGE)} FROM record
    WHERE (SELECT count(id) FROM known) + (SELECT count(*) FROM unknown) >= 0 ORDER BY id
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = {end}" for name, end in _ENDS.items())}
    WHERE message.status IN ('running', 'lost') AND excluded.status <> 'running'
    RETURNING id, {_IS_DELETED} AS is_deleted
)
INSERT INTO message_content ({", ".join(_CONTENT)})
SELECT {", ".join(_CONTENT)} FROM record JOIN written USING (id)
WHERE record.query IS NOT NULL AND NOT is_deleted
ON CONFLICT (id) DO UPDATE SET response = excluded.response, details = excluded.details
"""


class Record(NamedTuple):
    """A row's ``values`` in the order of COLUMNS, and how many ``characters`` they have, about."""

    values: tuple[Any, ...]
    characters: int

    @property
    def id(self) -> UUID:
        """The row's."""
        id_: UUID = self.values[0]
        return id_

    @property
    def closed(self) -> bool:
        """Whether it tells a request's end."""
        return bool(self.values[_STATUS] != "running")


def encoded(row: MessageRow, gateway_id: int, policy: ContentPolicy = FULL) -> Record:
    """``row`` as it is now, as far as ``policy`` keeps its text. What PostgreSQL can't store is replaced, and
    named in meta_data."""
    try:
        return _encoded(row, gateway_id, policy)
    except (ValueError, TypeError, RecursionError):
        return _encoded(storable(row), gateway_id, policy)


def _encoded(row: MessageRow, gateway_id: int, policy: ContentPolicy) -> Record:
    counts = (row.prompt_tokens, row.completion_tokens, row.cached_tokens)
    if max(counts) > INT32 or min(counts) < -INT32:
        raise ValueError("a count is beyond int4")
    texts = policy.texts_of(row)
    values = (
        row.id,
        row.create_time,
        None if row.conversation_id is None else to_column(row.conversation_id),
        row.user_id,
        row.chat_type,
        row.endpoint,
        to_column(row.model),
        to_column(row.request_id),
        gateway_id,
        row.status,
        row.finish_reason,
        *counts,
        row.queue_ms,
        row.ttft_ms,
        row.duration_ms,
        *texts,
    )
    return Record(values, sum(len(text) for text in texts if text is not None))


def arrays(records: Iterable[Record]) -> list[Sequence[Any]]:
    """The arguments of WRITE. No id may come twice."""
    return list(zip(*(record.values for record in records), strict=True))


def last_of_each(records: Iterable[Record]) -> list[Record]:
    """One record for each id: the closed one where there is one."""
    found: dict[UUID, Record] = {}
    for record in records:
        if record.closed or record.id not in found:
            found[record.id] = record
    return list(found.values())


def reduced(record: Record, reason: str) -> Record:
    """What is left of a record that PostgreSQL refuses: all that it can't refuse, and the ``reason``."""
    fields = dict(zip(COLUMNS, record.values, strict=True))
    for name, type_ in COLUMNS.items():
        value = fields[name]
        if type_ == "text" and value is not None:
            fields[name] = storable_text(str(value)).replace("\0", "\ufffd")
        elif type_ == "int4":
            fields[name] = storable_count(value) if isinstance(value, int) else 0
        elif type_ == "float8":
            fields[name] = float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None
    fields |= {
        "conversation_id": None,
        "meta_data": json_to_column({"reduced": storable_text(reason)}),
        "messages": None,
        "details": None if record.values[_QUERY] is None else "{}",
    }
    return Record(tuple(fields.values()), record.characters)


def to_line(record: Record) -> bytes:
    """The record as a line of JSON, for the journal. A lone surrogate is kept as it is."""
    fields = dict(zip(COLUMNS, record.values, strict=True))
    fields["id"], fields["create_time"] = record.id.hex, fields["create_time"].isoformat()
    if fields["user_id"] is not None:
        fields["user_id"] = fields["user_id"].hex
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def from_line(line: bytes) -> Record:
    """The record that ``to_line`` was given. Raises ValueError for any other line."""
    try:
        fields = json.loads(line.decode(errors="surrogatepass"))
        fields["id"] = UUID(hex=fields["id"])
        fields["create_time"] = datetime.fromisoformat(fields["create_time"])
        # A journal from before there were users has no such key.
        user_id = fields.get("user_id")
        fields["user_id"] = None if user_id is None else UUID(hex=user_id)
        values = tuple(fields[name] for name in COLUMNS)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a record: {error!r}") from error
    return Record(values, len(line))
