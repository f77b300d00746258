"""Answers in Chatchat's own form, and refusals in the words of its bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from adapters.chatchat.chat_request import Question
from adapters.chatchat.events import (
    BEGINNING,
    ChatEvents,
    StreamStyle,
    TextEvents,
    failure_event,
    is_torn,
)
from gateway.error_shapes import EVENT_STREAM
from gateway.errors import GatewayError
from gateway.generation import Generation
from gateway.lifecycle import Lifecycle
from gateway.prompting import bracketed
from gateway.sse import HEADERS, EventStream
from gateway.whole_answer import whole

JSON = "application/json"


@contextmanager
def named_as_sent(names: Mapping[str, str]) -> Iterator[None]:
    """Let what is raised inside name the fields that the client sent. ``names``: what it calls fields that
    have another name inside."""
    try:
        yield
    except GatewayError as error:
        name_as_sent(error, names)
        raise


def name_as_sent(error: GatewayError, names: Mapping[str, str]) -> None:
    """``names`` in ``error``'s param and in its text, which names the field in any case: there is no other
    place for it in Chatchat's form."""
    if error.param is None:
        return
    place = f"'{bracketed(error.param)}'"
    # A message of ours is all of the field that it comes from.
    sent = names.get(error.param.partition(".")[0])
    if sent is not None:
        error.param, error.message = sent, error.message.replace(place, f"'{sent}'")
        place = f"'{sent}'"
    if place not in error.message:
        error.message = f"{place}: {error.message}"


class NativeStream(EventStream):
    """A stream of Chatchat's; ``names`` as in ``named_as_sent``. There are no comments between its events:
    the official client of 0.2.9 takes one for an event that is broken, and fufan's throws."""

    def __init__(
        self,
        generation: Generation,
        chunks: ChatEvents | TextEvents,
        message_id: str,
        names: Mapping[str, str],
        opening: bytes = b"",
    ) -> None:
        def encode_failure(error: GatewayError) -> bytes:
            return failure_event(error.message, message_id)

        super().__init__(generation, chunks, encode_failure=encode_failure, opening=opening)
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with named_as_sent(self._names):
            await super().__call__(scope, receive, send)


class OneEvent(Response):
    """One event of a chat. Of a long one the beginning leaves by itself, see ``events.is_torn``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frame = bytes(self.body)
        if not is_torn(frame):
            await super().__call__(scope, receive, send)
            return
        del self.headers["content-length"]
        status, headers = self.status_code, self.raw_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": BEGINNING, "more_body": True})
        await send({"type": "http.response.body", "body": frame.removeprefix(BEGINNING)})


async def in_one_piece(
    generation: Generation,
    encode: Callable[[str], bytes],
    media_type: str,
    kind: type[Response] = Response,
) -> Response:
    """What ``encode`` makes of the answer's text. Raises GatewayError."""
    response = await whole(generation, lambda answers, _: encode(answers[0].text), media_type, kind)
    if media_type == EVENT_STREAM:
        response.headers.update(HEADERS)
    return response


def style_of(body: Question, lifecycle: Lifecycle) -> StreamStyle:
    """What an event has of the text."""
    return body.stream_style or lifecycle.settings.stream_style


def wants_json(request: Request) -> bool:
    """Whether an answer in one piece may be nothing but JSON: the client names it, and neither events nor
    whatever there is."""
    accepted = {
        one.partition(";")[0].strip().lower()
        for value in request.headers.getlist("accept")
        for one in value.split(",")
    }
    return JSON in accepted and not accepted & {EVENT_STREAM, "*/*"}
