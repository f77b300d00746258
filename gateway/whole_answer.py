"""An answer in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.responses import Response

from adapters.chat_format import Answer
from engine.base import Usage
from gateway.generation import Generation


async def whole(
    generation: Generation,
    encode: Callable[[Sequence[Answer], Usage], bytes],
    media_type: str = "application/json",
    kind: type[Response] = Response,
) -> Response:
    """What ``encode`` makes of the answer, given after its rows' commit. Raises GatewayError."""
    async with generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()
        if generation.failure is not None:
            raise generation.failure
        if generation.status == "cancelled":
            # Nobody is there to read an answer.
            return Response(status_code=499)
        content = encode(generation.answers, generation.usage)
        return kind(content, media_type=media_type, headers=generation.headers)
