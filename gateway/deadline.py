"""How long a request may take."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.errors import InvalidRequest

HEADER = "x-request-timeout"

_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


def deadline_seconds(headers: Mapping[str, str], setting: float) -> float:
    """Seconds from a request's arrival to the end of its generation: the ``setting``, or less where the
    client asks for less. Raises InvalidRequest, naming the header."""
    asked = headers.get(HEADER)
    if asked is None:
        return setting
    seconds = float(asked) if _DECIMAL.fullmatch(asked) else 0.0
    if seconds <= 0:
        raise InvalidRequest(
            f"Invalid value for '{HEADER}': must be seconds, a decimal number greater than 0.",
            HEADER,
            "invalid_value",
        )
    return min(seconds, setting)
