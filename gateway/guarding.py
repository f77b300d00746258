"""The guard list at work on a request: what is asked, what an answer may tell, and what is noted of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from adapters.chat_format import ChatFormat
from adapters.guard import Findings, Guard, Rule, passed, passed_json
from adapters.openai.body import Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.messages import Message
from gateway import metrics
from gateway.choice import Choice
from gateway.errors import InvalidRequest
from persistence.message_row import MessageRow

log = logging.getLogger("gateway.guard")

# Longer texts are looked through in a thread: a rule takes about a millisecond for so many characters.
THREAD_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class Place:
    """A field of the body: its text, and what puts another one in its place; nothing does for token ids.
    ``is_json``: its strings and numbers are what is said."""

    field: str
    text: str
    put: Callable[[str], None] | None
    is_json: bool = False


async def guarded(
    guard: Guard | None, chat_format: ChatFormat, body: Body, request_id: str
) -> dict[str, Any]:
    """Let ``body`` say what the rules leave of it; what they found, for the row's meta_data. Raises
    InvalidRequest where one blocks it, or the answer could not be told as it is asked for."""
    if guard is None:
        return {}
    check_told(guard, body)
    if not guard.input_rules:
        return {}
    findings = Findings()

    def filtered() -> str | None:
        return filter_body(guard.input_rules, chat_format, body, findings)

    at_fault = await asyncio.to_thread(filtered) if is_long(body) else filtered()
    count("input", findings)
    if at_fault is not None:
        log.warning("request %s is refused by the rule '%s'", request_id, findings.blocked_by)
        raise InvalidRequest(
            "The request is refused by the operator's content policy.", at_fault, "content_policy_violation"
        )
    fields = findings.fields()
    return {"guard": {"input": fields}} if fields else {}


def check_told(guard: Guard, body: Body) -> None:
    """Raises InvalidRequest for what would tell the tokens that a rule takes out of the text."""
    if not guard.hides_output:
        return
    asked = {"logprobs": body.wanted.logprobs, "return_token_ids": body.wanted.token_ids}
    for name, is_asked in asked.items():
        if is_asked:
            raise InvalidRequest(
                f"'{name}' is not supported here: the operator's rules may change the answer's text, and its "
                "tokens would tell what they changed.",
                name,
                "unsupported_parameter",
            )


def filter_body(rules: Sequence[Rule], chat_format: ChatFormat, body: Body, findings: Findings) -> str | None:
    """Put what the rules leave in place of each text; the field that one of them blocks."""
    for place in places(body, chat_format):
        before = findings.passed.copy()
        after = (passed_json if place.is_json else passed)(rules, place.text, findings)
        if findings.blocked_by is None and after != place.text:
            if place.put is None:
                findings.blocked_by = next(iter(findings.passed - before))
            else:
                place.put(after)
        if findings.blocked_by is not None:
            return place.field
    return None


def is_long(body: Body) -> bool:
    """Whether it takes long to look through."""
    texts = body.prompts if isinstance(body, CompletionRequest) else [one.content for one in body.past]
    if isinstance(body, ChatCompletionRequest):
        texts += [message.text for message in body.messages]
    return sum(map(len, texts)) > THREAD_CHARACTERS


def places(body: Body, chat_format: ChatFormat) -> Iterator[Place]:
    """All that ``body`` says to the model."""
    if isinstance(body.history, list):
        for index, item in enumerate(body.history):
            yield Place(f"history.{index}", item.content, partial(setattr, item, "content"))
    if isinstance(body, ChatCompletionRequest):
        for index, message in enumerate(body.messages):
            in_place = body.messages_field == "messages"
            yield from of_message(message, f"messages.{index}" if in_place else body.messages_field)
    elif isinstance(body, CompletionRequest):
        yield from of_prompts(body, chat_format)


def of_message(message: Message, field: str) -> Iterator[Place]:
    if isinstance(message.content, str):
        yield Place(field, message.content, partial(setattr, message, "content"))
    for part in message.content if isinstance(message.content, list) else ():
        yield Place(field, part.text, partial(setattr, part, "text"))
    called = [call.function for call in message.tool_calls or ()]
    for function in called + ([message.function_call] if message.function_call is not None else []):
        yield Place(field, function.arguments, partial(setattr, function, "arguments"), is_json=True)


def of_prompts(body: CompletionRequest, chat_format: ChatFormat) -> Iterator[Place]:
    if isinstance(body.prompt, str):
        yield Place("prompt", body.prompt, partial(setattr, body, "prompt"))
        return
    for index, prompt in enumerate(body.prompts):
        field = f"prompt.{index}"
        if isinstance(prompt, str):
            yield Place(field, prompt, partial(cast("list[str]", body.prompt).__setitem__, index))
        else:
            yield Place(field, chat_format.decode(prompt), None)


def note_output(row: MessageRow, choices: Sequence[Choice]) -> None:
    """What the rules found in an answer, in its row's meta_data."""
    together = Findings()
    for choice in choices:
        if choice.guard is not None:
            findings = choice.guard.findings
            together.passed += findings.matches
            together.too_slow |= findings.too_slow
            count("output", findings)
            if findings.blocked_by is not None:
                log.warning(
                    "the answer to request %s is ended by the rule '%s'", row.request_id, findings.blocked_by
                )
    if fields := together.fields():
        row.meta_data["guard"] = row.meta_data.get("guard", {}) | {"output": fields}


def count(side: str, findings: Findings) -> None:
    """In the metrics."""
    for rule, matches in findings.matches.items():
        metrics.GUARD_MATCHES.labels(rule, side).inc(matches)
    for rule in findings.too_slow:
        metrics.GUARD_TOO_SLOW.labels(rule, side).inc()
