"""One prompt and the choices that answer it: together one row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.chat_format import Reader
from adapters.guard import Guard
from engine.base import GenerationRequest, Instead, ToolCall
from gateway.choice import Choice
from gateway.guarding import note_output
from persistence.message_row import MessageRow

log = logging.getLogger("gateway.generation")


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt before it runs: its row, and the engine's request for each of its choices.

    ``field_names``: what the client calls fields that the engine knows by another name. ``guard``: what the
    answers may not say.
    """

    row: MessageRow
    requests: Sequence[GenerationRequest]
    new_reader: Callable[[], Reader]
    field_names: Mapping[str, str] = field(default_factory=dict)
    guard: Guard | None = None

    def choices(self) -> list[Choice]:
        """Of a new answer."""
        return [
            Choice(request, self.new_reader(), self.field_names, self.guard.output() if self.guard else None)
            for request in self.requests
        ]


class PromptAnswer:
    """A Query on its way. ``begun`` where the engine has taken the first choice: it has a row then."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self.row = query.row
        self.choices = query.choices()
        self.begun = False

    @property
    def requests(self) -> Sequence[GenerationRequest]:
        """The engine's, one for each choice."""
        return self._query.requests

    @property
    def finished(self) -> bool:
        """Whether every choice has come to its own end."""
        return all(choice.finished for choice in self.choices)

    @property
    def prompt_tokens(self) -> int:
        """The prompt counts once, however many choices answer it. An engine that broke has not told; the
        prompt is known all the same, but for whoever answered in messages."""
        first = self.choices[0]
        if first.told:
            return first.prompt_tokens
        return first.prompt_tokens or len(self._query.requests[0].prompt_token_ids)

    @property
    def completion_tokens(self) -> int:
        """Of all choices together."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, as the first choice found it."""
        return self.choices[0].cached_tokens

    @property
    def instead(self) -> list[Instead]:
        """Who answered choices in the engine's place, each once."""
        return list(dict.fromkeys(choice.instead for choice in self.choices if choice.instead is not None))

    @property
    def counted(self) -> bool:
        """Whether the counts are all that was used; who answered in the engine's place may not tell."""
        return all(choice.counted for choice in self.choices)

    def fill_row(self, ended: str, error: BaseException | None) -> None:
        """Say in the row how it ended: completed where all choices are finished and nothing failed, else
        as ``ended`` says."""
        row, first = self.row, self.choices[0]
        completed = error is None and self.finished
        row.status = "completed" if completed else ended
        row.finish_reason = first.end_reason if completed else ended
        row.response = first.text
        if first.tool_calls:
            row.details["tool_calls"] = call_fields(first.tool_calls)
        note_output(row, self.choices)
        if any(choice.repetition for choice in self.choices):
            row.meta_data["repetition"] = True
        if len(self.choices) > 1:
            row.meta_data["choices"] = [choice_counts(choice, ended) for choice in self.choices]
            row.details["choices"] = [choice_text(choice) for choice in self.choices]
        if self.instead:
            row.meta_data["degraded"] = {
                "by": names_of(self.instead),
                "reason": self.instead[0].reason,
            }
        if first.queue_seconds is not None:
            row.queue_ms = round(first.queue_seconds * 1000, 3)
        row.prompt_tokens, row.cached_tokens = self.prompt_tokens, self.cached_tokens
        row.completion_tokens = self.completion_tokens
        if not self.counted:
            row.meta_data["usage"] = "untold"
        if row.status == "error":
            # The client is told less than the operator.
            cause = (error.__cause__ or error) if error is not None else "The engine ended the request."
            row.error = str(cause)
            log.error("request %s failed: %s", row.request_id, row.error)


def names_of(instead: Sequence[Instead]) -> str:
    """Those who answered, each once."""
    return ", ".join(dict.fromkeys(one.by for one in instead))


def choice_counts(choice: Choice, ended: str) -> dict[str, Any]:
    """How one of several choices ended, for the row's meta_data."""
    return {
        "finish_reason": choice.end_reason or ended,
        "completion_tokens": choice.completion_tokens,
    }


def choice_text(choice: Choice) -> dict[str, Any]:
    """What one of several choices says, for the row's details."""
    fields: dict[str, Any] = {"response": choice.text}
    return fields | ({"tool_calls": call_fields(choice.tool_calls)} if choice.tool_calls else {})


def call_fields(calls: Sequence[ToolCall]) -> list[dict[str, str]]:
    """Calls, for the row's details."""
    return [{"name": call.name, "arguments": call.arguments} for call in calls]
