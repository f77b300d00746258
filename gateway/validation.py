"""pydantic's errors in a client's words: which field, and what it has to be.

An error's place (``loc``) holds, between the names of fields, the members of unions: ``str``,
``list[int]``, ``constrained-str``, a class, a tag (with a hyphen, to be told from a field). None of these
is a client's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel

Error = Mapping[str, Any]

# As pydantic calls the members of unions; all others have a bracket, a hyphen or a capital.
TYPES = frozenset(("str", "int", "float", "bool", "none", "any", "list", "dict", "tuple", "set"))

KEY = "[key]"
LONGEST_KEY = 40

BOUNDS = {
    "minimum": "greater than or equal to",
    "exclusiveMinimum": "greater than",
    "maximum": "less than or equal to",
    "exclusiveMaximum": "less than",
}
OUT_OF_BOUNDS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")

_FIELD = re.compile(r"[a-z0-9_][A-Za-z0-9_]{,63}")
_SUBJECT = re.compile(r"^[A-Z][a-z]* should ")


def explained(
    errors: Sequence[Error], model: type[BaseModel] | None = None
) -> tuple[str, str | None, str | None]:
    """Message, field and code for the first field at fault."""
    found = likeliest(errors)
    first = found[0]
    param = field(first)
    match first["type"]:
        case "json_invalid":
            detail = str(first["msg"]).removeprefix("Invalid JSON: ")
            return f"The body is not valid JSON: {detail}.", None, None
        case "missing":
            return f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        case "extra_forbidden":
            # A name that is none stays away from the message.
            inside = f"'{param}'" if param else "the body"
            where = f": {inside}" if is_field(first["loc"][-1]) else f" in {inside}"
            return f"Unknown parameter{where}.", param, "unknown_parameter"
    if param is None and first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "The body must be a JSON object.", None, None
    subject = f"Invalid value for '{param}'" if param else "Invalid body"
    if first["type"] in OUT_OF_BOUNDS and (limits := limits_of(model, first["loc"])):
        return f"{subject}: must be {limits}.", param, "invalid_value"
    # A field may be wrong in one way for each of the types that it may have.
    wishes = dict.fromkeys(wish(error) for error in found if field(error) == param)
    rest = [one.removeprefix("must be ") for one in list(wishes)[1:]]
    return f"{subject}: {', or '.join([next(iter(wishes)), *rest])}.", param, "invalid_value"


def likeliest(errors: Sequence[Error], start: int = 0) -> list[Error]:
    """The first error; where it is in a union, those of the members that the value was likely meant for:
    which have its type and say what else is wrong, else all of them."""
    loc = errors[0]["loc"]
    at = next((index for index in range(start, len(loc)) if is_member(loc[index])), None)
    if at is None:
        return [errors[0]]
    members: dict[object, list[Error]] = {}
    for error in errors:
        if error["loc"][:at] == loc[:at] and len(error["loc"]) > at:
            members.setdefault(error["loc"][at], []).append(error)
    fitting = [of_one for of_one in members.values() if not any(mismatch(one, at + 1) for one in of_one)]
    if not fitting:
        return [error for of_one in members.values() for error in of_one if mismatch(error, at + 1)]
    best = max(closeness(of_one, at + 1) for of_one in fitting)
    return [
        error
        for of_one in fitting
        if closeness(of_one, at + 1) == best
        for error in likeliest(of_one, at + 1)
    ]


def mismatch(error: Error, depth: int) -> bool:
    """Whether the value, ``depth`` parts down, has another type."""
    kind = error["type"]
    return len(error["loc"]) == depth and (kind.endswith("_type") or kind in ("literal_error", "enum"))


def closeness(errors: Sequence[Error], depth: int) -> tuple[int, int, int]:
    """How near a value came to a union's member: few errors, late in a list, deep inside."""
    loc = errors[0]["loc"]
    index = loc[depth] if len(loc) > depth and isinstance(loc[depth], int) else 0
    return -len(errors), index, len(loc)


def wish(error: Error) -> str:
    """What the value has to be."""
    match error["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be an object"
        case "list_type":
            return "must be a valid array"
    text = " ".join(str(error["msg"]).splitlines()).removeprefix("Value error, ")
    text = _SUBJECT.sub("must ", text).replace(" after validation", "").removesuffix(", not more")
    if error["loc"][-1:] == (KEY,):
        return f"the key {key(error)} {text.partition(', ')[0]}"
    return text


def key(error: Error) -> str:
    """The key of an object that is at fault, quoted."""
    return json.dumps(str(error["loc"][-2])[:LONGEST_KEY])


def field(error: Error) -> str | None:
    """The field as a client knows it: ``messages.0.content``."""
    loc = error["loc"][:-2] if error["loc"][-1:] == (KEY,) else error["loc"]
    return ".".join(str(part) for part in loc if is_field(part)) or None


def is_field(part: object) -> bool:
    """Whether a part of an error's place is an index or a field's name."""
    return isinstance(part, int) or (
        isinstance(part, str) and part not in TYPES and _FIELD.fullmatch(part) is not None
    )


def is_member(part: object) -> bool:
    """Whether a part of an error's place is a union's member."""
    return part != KEY and not is_field(part)


def limits_of(model: type[BaseModel] | None, loc: Sequence[object]) -> str:
    """The range of the number at ``loc``; empty where it is not known, as that of a key."""
    if model is None or KEY in loc:
        return ""
    schema = schema_of(model)
    found: list[Mapping[str, Any]] = [schema]
    for part in loc:
        if is_field(part):
            found = [below for one in found for below in step(schema, one, part)]
    for member in (member for one in found for member in members_of(schema, one)):
        limits = [f"{words} {number(member[name])}" for name, words in BOUNDS.items() if name in member]
        if limits:
            return " and ".join(limits)
    return ""


@cache
def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of a body."""
    return model.model_json_schema()


def members_of(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema's members, itself where it has none; references are followed."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    members = schema.get("anyOf") or schema.get("oneOf")
    if not members:
        yield schema
    for member in members or ():
        yield from members_of(root, member)


def step(root: Mapping[str, Any], schema: Mapping[str, Any], part: object) -> Iterator[Mapping[str, Any]]:
    """The schemas of what stands under a name or an index."""
    for member in members_of(root, schema):
        below = (
            member.get("items")
            if isinstance(part, int)
            else member.get("properties", {}).get(part, member.get("additionalProperties"))
        )
        if isinstance(below, Mapping):
            yield below


def number(value: float) -> str:
    """As people write it."""
    return str(int(value)) if value == int(value) else str(value)
