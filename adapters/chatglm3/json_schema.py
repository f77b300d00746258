"""Reads a JSON schema's keywords; as of draft 2020-12 (json-schema.org) and of older drafts."""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# More characters or elements than any context holds are not counted.
MOST_COUNTED = 100_000

TYPES = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "null": "none",
    "array": "list",
    "object": "dict",
}

# The type that a schema means which names none.
_TELLING = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}

# A schema is known again by these keywords alone.
ENFORCED = {
    "$ref", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum",
    "exclusiveMinimum", "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum",
    "nullable", "oneOf", "pattern", "prefixItems", "properties", "required", "type",
}  # fmt: skip


def both(one: Any, other: Any) -> Any:
    """A schema of what fits both, as far as what is enforced goes."""
    if isinstance(one, bool) or isinstance(other, bool):
        return (other if one is True else one) if isinstance(one, bool) else (one if other is True else other)
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        raise ValueError(f"{brief(other if isinstance(one, Mapping) else one)} is no schema")
    merged = {**one, **other}
    left: list[Any] = []
    for name in [name for name in one if name in other and name in ENFORCED]:
        ours, theirs = one[name], other[name]
        if ours == theirs and type(ours) is type(theirs):
            continue
        if name == "type":
            merged[name] = _common_types(types_of(one), types_of(other))
        elif name == "required":
            merged[name] = [*dict.fromkeys([*names_in(one, name), *names_in(other, name)])]
        elif name == "properties":
            pairs = mapping_in(one, name), mapping_in(other, name)
            merged[name] = {**pairs[0], **pairs[1]}
            for shared in pairs[0].keys() & pairs[1].keys():
                merged[name][shared] = {"allOf": [pairs[0][shared], pairs[1][shared]]}
        elif name in ("additionalProperties", "items"):
            merged[name] = {"allOf": [ours, theirs]}
        elif name == "enum":
            merged[name] = [value for value in list_in(one, name) if value in list_in(other, name)]
        elif name.lower().removeprefix("exclusive").startswith(("min", "max")):
            tighter = max if "min" in name.lower() else min
            merged[name] = tighter(real_in(one, name), real_in(other, name))
        elif name == "const":
            return False
        elif name == "prefixItems":
            raise ValueError("prefixItems of two schemas can't be one")
        elif name == "allOf":
            merged[name] = [*list_in(one, name), *list_in(other, name)]
        elif name in ("$ref", "anyOf", "oneOf"):
            merged[name] = ours
            left.append({name: theirs})
    if left:
        merged["allOf"] = [*merged.get("allOf", ()), *left]
    return merged if merged.get("type") != [] else False


def _common_types(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    common = [one for one in ours if one in theirs]
    if "integer" not in common and "integer" in {*ours, *theirs} and "number" in {*ours, *theirs}:
        common.append("integer")
    return common


def choice_of(schema: Mapping[str, Any]) -> list[Any]:
    """The branches of anyOf or oneOf, each with what stands beside them; empty where there is none."""
    for name in ("anyOf", "oneOf"):
        if name in schema:
            rest = without(schema, name)
            return [both(rest, branch) for branch in list_in(schema, name)] or [False]
    return []


def without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: of for other, of in schema.items() if other != name and other in ENFORCED}


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The types that ``schema`` names or means; empty where it says nothing of them."""
    if "type" not in schema:
        return [type_ for type_, names in _TELLING.items() if any(name in schema for name in names)][:1]
    types = [schema["type"]] if isinstance(schema["type"], str) else list_in(schema, "type")
    for type_ in types:
        if type_ not in TYPES:
            raise ValueError(f"{brief(type_)} is no type")
    return types


def declared(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The members that ``schema`` names: its properties, then what is required beside them."""
    properties = mapping_in(schema, "properties")
    others = schema.get("additionalProperties", True)
    return properties | {name: others for name in names_in(schema, "required") if name not in properties}


def is_map(schema: Mapping[str, Any]) -> bool:
    """Whether the members' names are left to the model."""
    return not declared(schema) and bool(schema.get("additionalProperties"))


def is_keyword_argument(name: str) -> bool:
    """Whether Python reads ``name=`` as what it says; it normalizes identifiers."""
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and name != "__debug__"
        and name == unicodedata.normalize("NFKC", name)
    )


def items_of(schema: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """The schemas of the first elements, and the one of all others; as of today, or before 2020."""
    if isinstance(schema.get("items"), list):
        return list_in(schema, "items"), schema.get("additionalItems", True)
    return list_in(schema, "prefixItems") if "prefixItems" in schema else [], schema.get("items", True)


def is_one_of(value: object, types: Sequence[str]) -> bool:
    match value:
        case None:
            return "null" in types
        case bool():
            return "boolean" in types
        case int():
            return "integer" in types or "number" in types
        case float():
            return "number" in types or ("integer" in types and value.is_integer())
        case str():
            return "string" in types
    return ("object" if isinstance(value, Mapping) else "array") in types


def least_in(schema: Mapping[str, Any], name: str) -> int:
    count: float = real_in(schema, name) if name in schema else 0
    if not 0 <= count <= MOST_COUNTED:
        raise ValueError(f"{name} must be from 0 to {MOST_COUNTED}")
    return int(count)


def most_in(schema: Mapping[str, Any], name: str) -> int | None:
    count: float = real_in(schema, name) if name in schema else math.inf
    if count < 0:
        raise ValueError(f"{name} must not be negative")
    return None if count > MOST_COUNTED else int(count)


def real_in(schema: Mapping[str, Any], name: str) -> int | float:
    value: object = schema[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {brief(value)}")
    return value


def mapping_in(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = schema.get(name, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, not {brief(value)}")
    return dict(value)


def list_in(schema: Mapping[str, Any], name: str) -> list[Any]:
    value = schema[name]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {brief(value)}")
    return list(value)


def names_in(schema: Mapping[str, Any], name: str) -> list[str]:
    names = list_in(schema, name) if name in schema else []
    if not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name} must be a list of names")
    return names


def brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
