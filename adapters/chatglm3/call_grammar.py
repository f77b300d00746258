"""A grammar of ChatGLM3's tool calls, so that a call which has to come always parses and fits its schema.

Written in the EBNF of xgrammar, which vLLM takes as ``StructuredOutputsParams(grammar=...)``. The model
writes arguments as Python literals, the way ``repr`` does, so a JSON schema's own grammar is of no use.
"""

from __future__ import annotations

import json
import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import reduce
from typing import Any
from urllib.parse import unquote

from adapters.chatglm3.calls import FUNCTION, INTERPRETER
from engine.base import Tool

# The model's own dummy prefix: a text begins with a piece that has a space in front, and so does the
# second line, which is encoded on its own.
_FENCE_START = " ```python\n"
_FENCE_END = "\n```"

_MOST_RULES = 5_000
_MOST_CHARACTERS = 300_000
# Compiling takes time by the square of a choice's length: a second for this one.
_LONGEST_RULE = 50_000
_MOST_NESTED = 50
_MOST_SHAPES = 200

# Numbers end: every 64-bit integer has no more digits, every double's repr no more after the point.
_WHOLE_DIGITS = 19
_FRACTION_DIGITS = 20
_GREATEST = 10**_WHOLE_DIGITS - 1

# In longer strings of bounded length nothing can be escaped: each character costs a rule.
_MOST_ESCAPABLE = 64

# More characters or elements than any context holds are not counted.
_MOST_COUNTED = 100_000

# Never bare in a string: what ends lines somewhere, other control characters, half surrogate pairs.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"

# Rules with a name of their own; a grammar gets the ones it uses.
_BASE = {
    # To the closing quote. A rule that ends after each character would cost 10 ms a token or more.
    "single": rf""""'" | [^'\\{_CONTROL}] single | escape single""",
    "double": rf""""\"" | [^\x22\\{_CONTROL}] double | escape double""",
    "escape": r'"\\" ([\\\x22'
    r"'"
    r'nrt] | "x" hex hex | "u" plane | "U000" [1-9a-fA-F] hex{4} | "U0010" hex{4})',
    "plane": "[0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2}",
    "hex": "[0-9a-fA-F]",
    "string": r""""'" single | "\"" double""",
    "boolean": '"True" | "False"',
    "none": '"None"',
    "integer": '"-"? whole',
    "whole": f'"0" | [1-9] [0-9]{{0,{_WHOLE_DIGITS - 1}}}',
    # 9.99e299 at most, which is finite.
    "number": '"-"? (whole fraction? | [0-9] fraction? [eE] [+-]? ([0-9]{1,2} | [12] [0-9]{2}))',
    "fraction": f'"." [0-9]{{1,{_FRACTION_DIGITS}}}',
    "any": "string | number | boolean | none | list | dict",
    "list": '"[" (any (", " any)*)? "]"',
    "dict": '"{" (pair (", " pair)*)? "}"',
    "pair": 'string ": " any',
    "code": r'line ("\n" line)*',
    # Not one that begins with the fence.
    "line": r'"`"{0,2} ([^`\x00-\x08\x0a-\x1f\x7f\ud800-\udfff] [^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*)?',
}

_TYPES = {
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
_ENFORCED = {
    "$ref", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum",
    "exclusiveMinimum", "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum",
    "nullable", "oneOf", "pattern", "prefixItems", "properties", "required", "type",
}  # fmt: skip


def call_grammar(tools: Sequence[Tool], *, with_header: bool) -> str:
    """The grammar of one call of one of ``tools``, from the answer's first token to its last.

    The text is a space, the tool's name and a line break where ``with_header``, else these stand in the
    prompt already; then `` ```python``, the call, and the closing fence. The interpreter's text is any
    code instead of a call. Arguments come in the order of the schema's properties; a tool with a
    property that can't be a keyword argument is called as ``tool_call(**{...})``.

    Enforced of a schema: type (one or a list), nullable, enum, const, minLength, maxLength, minimum,
    maximum, exclusiveMinimum, exclusiveMaximum, properties, required, additionalProperties (beside
    properties only where it is given, and never beside a tool's own), items, prefixItems, minItems,
    maxItems, anyOf, allOf, ``$ref`` into the schema itself, true, false. oneOf is taken as anyOf. Not
    enforced: pattern, format, multipleOf, uniqueItems, contains, minProperties, maxProperties,
    patternProperties, propertyNames, not, if, dependent*, and what goes beyond type beside enum.
    A string whose length is bounded beyond 64 has no escapes; a number has at most 19 digits, and 20
    after the point. That a schema has only endless values is not noticed.

    Raises ValueError for a schema that is malformed, fits nothing, refers to what is not there or is
    beyond a sane size, and for a tool's name that is no plain text.
    """
    if not tools:
        raise ValueError("There are no tools to choose from.")
    rules = _Rules()
    texts = [_tool_text(rules, tool, with_header) for tool in tools]
    return rules.text(" | ".join(dict.fromkeys(texts)))


def _tool_text(rules: _Rules, tool: Tool, with_header: bool) -> str:
    if not tool.name.isprintable() or not tool.name.strip():
        raise ValueError(f"{tool.name!r} can't be a tool's name.")
    header = f" {tool.name}\n" if with_header else ""
    if tool.name == INTERPRETER:
        return f"{_quoted(header + _FENCE_START)} code {_quoted(_FENCE_END)}"
    try:
        arguments = _Schemas(rules, tool.parameters).arguments()
    except _FitsNothing as error:
        raise ValueError(f"No arguments fit the parameters of the tool {tool.name!r}.") from error
    except RecursionError as error:
        raise ValueError(f"The parameters of the tool {tool.name!r} are nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"The parameters of the tool {tool.name!r}: {error}") from error
    before, after = _quoted(f"{header}{_FENCE_START}{FUNCTION}("), _quoted(f"){_FENCE_END}")
    return f"{before} {arguments} {after}"


class _FitsNothing(Exception):
    """No value fits this schema."""


class _Rules:
    """The grammar's rules, each body once."""

    def __init__(self) -> None:
        self._bodies = dict(_BASE)
        self._names = {body: name for name, body in _BASE.items()}
        self._made = 0
        self._characters = 0

    def add(self, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._names:
            self.define(self.reserve(), body)
        return self._names[body]

    def reserve(self) -> str:
        """A name to be defined later, for rules that mention themselves."""
        self._made += 1
        if self._made > _MOST_RULES:
            raise ValueError(f"needs more than {_MOST_RULES} rules of grammar")
        return f"r{self._made}"

    def define(self, name: str, body: str) -> None:
        if len(body) > _LONGEST_RULE:
            raise ValueError(f"needs a rule of more than {_LONGEST_RULE} characters")
        self._characters += len(body)
        if self._characters > _MOST_CHARACTERS:
            raise ValueError(f"needs more than {_MOST_CHARACTERS} characters of grammar")
        self._bodies[name] = body
        self._names.setdefault(body, name)

    def text(self, root: str) -> str:
        """The grammar, with the rules that ``root`` leads to."""
        lines = [f"root ::= {root}"]
        found = dict.fromkeys(_mentioned(root))
        for name in (waiting := list(found)):
            lines.append(f"{name} ::= {self._bodies[name]}")
            new = [other for other in _mentioned(self._bodies[name]) if other not in found]
            found.update(dict.fromkeys(new))
            waiting += new
        return "\n".join(lines) + "\n"


# Texts and classes of characters, which may look like names, or a name.
_NAMES = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|([a-z]\w*)')


def _mentioned(body: str) -> list[str]:
    return list(dict.fromkeys(name for name in _NAMES.findall(body) if name))


class _Schemas:
    """Makes rules of the subschemas of one tool's parameters.

    A method that gives a rule gives what can stand in a sequence as it is: a name or a quoted text.
    """

    def __init__(self, rules: _Rules, root: Mapping[str, Any]) -> None:
        self._rules = rules
        self._root = root
        self._known: dict[str, str] = {}
        # Schemas entered since the last character of text: a rule must not begin with itself.
        self._entered: list[str] = []
        self._depth = 0
        self._steps = 0

    def arguments(self) -> str:
        """The rule of what stands between the call's parentheses."""
        shapes = list(self._shapes(self._root))
        names = {name for shape in shapes for name in _declared(shape)}
        as_keywords = all(map(_is_keyword_argument, names)) and not any(map(_is_map, shapes))
        return self._rules.add(_either(self._arguments(shapes, as_keywords)))

    def _arguments(self, shapes: Sequence[Mapping[str, Any]], as_keywords: bool) -> Iterator[str]:
        for shape in shapes:
            closed = bool(_declared(shape)) or not _is_map(shape)
            with suppress(_FitsNothing):
                if as_keywords:
                    yield self._members(shape, lambda name: f"{name}=", closed)
                else:
                    yield self._rules.add(f'"**" {self._object(shape, closed)}')

    def _shapes(self, schema: object) -> Iterator[Mapping[str, Any]]:
        """The schemas of objects that the one of a tool's parameters comes to: more than one for anyOf."""
        self._steps += 1
        if self._steps > _MOST_SHAPES:
            raise ValueError("has too many alternatives, or refers to itself")
        if isinstance(schema, bool):
            schema = {} if schema else {"type": "null"}
        if not isinstance(schema, Mapping):
            raise ValueError(f"{_brief(schema)} is no schema")
        if choice := _choice(schema):
            for branch in choice:
                yield from self._shapes(branch)
        elif "$ref" in schema or "allOf" in schema:
            yield from self._shapes(self._resolved(schema))
        elif "object" in (_types(schema) or ["object"]):
            yield schema

    def value(self, schema: object) -> str:
        """The rule of a value that fits ``schema``."""
        if isinstance(schema, bool):
            if not schema:
                raise _FitsNothing
            return "any"
        if not isinstance(schema, Mapping):
            raise ValueError(f"{_brief(schema)} is no schema")
        key = json.dumps({name: of for name, of in schema.items() if name in _ENFORCED})
        if key in self._entered:
            raise _FitsNothing
        if key not in self._known:
            before = len(self._known)
            self._known[key] = name = self._rules.reserve()
            try:
                with self._within(key):
                    self._rules.define(name, self._body(schema))
            except _FitsNothing:
                # What was made meanwhile may mention it.
                while len(self._known) > before:
                    self._known.popitem()
                raise
        return self._known[key]

    @contextmanager
    def _within(self, key: str) -> Iterator[None]:
        if self._depth == _MOST_NESTED:
            raise ValueError(f"schemas are nested in more than {_MOST_NESTED} others")
        self._depth += 1
        self._entered.append(key)
        try:
            yield
        finally:
            self._depth -= 1
            self._entered.pop()

    @contextmanager
    def _after_text(self) -> Iterator[None]:
        entered, self._entered = self._entered, []
        try:
            yield
        finally:
            self._entered = entered

    def _body(self, schema: Mapping[str, Any]) -> str:
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else _list(schema, "enum")
            types = _types(schema) if "type" in schema else list(_TYPES)
            if schema.get("nullable") is True:
                values, types = [*values, None], [*types, "null"]
            return _either(text for value in values if _is_one_of(value, types) for text in _literals(value))
        if schema.get("nullable") is True:
            return self._either([_without(schema, "nullable"), {"type": "null"}])
        # Before allOf, which keeps what stands in two places from being lost.
        if choice := _choice(schema):
            return self._either(choice)
        if "$ref" in schema or "allOf" in schema:
            return self.value(self._resolved(schema))
        types = _types(schema)
        if len(types) > 1:
            return self._either([{**schema, "type": one} for one in types])
        return self._typed(types[0], schema) if types else "any"

    def _resolved(self, schema: Mapping[str, Any]) -> Any:
        """``schema`` with what it refers to put in, or where it refers to nothing, all of allOf."""
        name = "$ref" if "$ref" in schema else "allOf"
        others = [self._referred(schema[name])] if name == "$ref" else _list(schema, name)
        return reduce(_both, others, _without(schema, name))

    def _either(self, schemas: Sequence[Any]) -> str:
        return _either(self._each_that_fits(schemas))

    def _each_that_fits(self, schemas: Sequence[Any]) -> Iterator[str]:
        for schema in schemas:
            with suppress(_FitsNothing):
                yield self.value(schema)

    def _typed(self, type_: str, schema: Mapping[str, Any]) -> str:
        match type_:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return _number(schema, 0 if type_ == "integer" else _FRACTION_DIGITS)
        return _TYPES[type_]

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = _least(schema, "minLength"), _most(schema, "maxLength")
        if most is not None and most < least:
            raise _FitsNothing
        if not least and most is None:
            return "string"
        return f""""'" {self._rest("'", least, most)} | "\\"" {self._rest('"', least, most)}"""

    def _rest(self, quote: str, least: int, most: int | None) -> str:
        """The rule of a string's rest, its closing quote included."""
        character, end = rf"[^{_in_class(quote)}\\{_CONTROL}]", _quoted(quote)
        if max(least, most or 0) > _MOST_ESCAPABLE:
            return self._rules.add(f"{character}{_times(least, most)} {end}")
        rest = end
        if most is None:
            rest = "single" if quote == "'" else "double"
        for left in range(1, (least if most is None else most) + 1):
            # `left` characters may follow; the first ones of all must.
            more = f"{character} {rest} | escape {rest}"
            must = most is None or most - left < least
            rest = self._rules.add(more if must else f"{end} | {more}")
        return rest

    def _object(self, schema: Mapping[str, Any], closed: bool = False) -> str:
        with self._after_text():
            members = self._members(schema, lambda name: f"{name!r}: ", closed)
        return self._rules.add(f'"{{" {members} "}}"')

    def _members(self, schema: Mapping[str, Any], before: Callable[[str], str], closed: bool) -> str:
        """The rule of an object's members, in the order of their names in the schema.

        ``before`` gives what stands before a member's value; ``closed``: no other members.
        """
        required = _names(schema, "required")
        members = _declared(schema)
        open_ = not closed and (not members or "additionalProperties" in schema)
        # Two rules for each member: for when it is the first one, and for after another.
        first, later = self._others(
            schema.get("additionalProperties", True) if open_ else False, list(members)
        )
        for name, of in reversed(members.items()):
            try:
                with self._after_text():
                    member = f"{_quoted(before(name))} {self.value(of)}"
            except _FitsNothing:
                if name in required:
                    raise
                continue
            as_first, as_later = f"{member} {later}", f'", " {member} {later}'
            if name not in required:
                as_first, as_later = f"{as_first} | {first}", f"{as_later} | {later}"
            first, later = self._rules.add(as_first), self._rules.add(as_later)
        return first

    def _others(self, schema: Any, names: Sequence[str]) -> tuple[str, str]:
        """The rules of the members that have no name in the schema: from the first one, and after others."""
        try:
            with self._after_text():
                value = self.value(schema)
        except _FitsNothing:
            return '""', '""'
        pair = self._rules.add(f'{self._other_name(names)} ": " {value}')
        later = self._rules.add(f'(", " {pair})*')
        return self._rules.add(f"({pair} {later})?"), later

    def _other_name(self, names: Sequence[str]) -> str:
        """The rule of a string that is none of ``names``."""
        taken = [name for name in names if repr(name) == f"'{name}'"]
        if not taken:
            return "string"
        # Nothing is escaped here, so that every text can be written in one way only.
        rest = self._rules.add(rf'''[^'\\{_CONTROL}]* "'"''')
        after = dict.fromkeys((name[:end] for name in taken for end in range(len(name), -1, -1)), "")
        for start in sorted(after, key=len, reverse=True):
            nexts = {longer[-1]: longer for longer in after if longer[:-1] == start and longer}
            found = [f"{_quoted(next_)} {after[longer]}" for next_, longer in nexts.items()]
            found.append(f"[^'\\\\{_CONTROL}{''.join(map(_in_class, nexts))}] {rest}")
            if start not in taken:
                found.append('"\'"')
            after[start] = self._rules.add(" | ".join(found))
        return self._rules.add(f'"\'" {after[""]}')

    def _array(self, schema: Mapping[str, Any]) -> str:
        least, most = _least(schema, "minItems"), _most(schema, "maxItems")
        if most is not None and most < least:
            raise _FitsNothing
        with self._after_text():
            elements = self._elements(*_items(schema), least, most)
        return self._rules.add(f'"[" {elements} "]"')

    def _elements(self, first: Sequence[Any], others: Any, least: int, most: int | None) -> str:
        """The rule of a list's elements: the ones of ``first``, as far as they go, then any of ``others``."""
        rules: list[str] = []
        for schema in first[:most]:
            fitting = list(self._each_that_fits([schema]))
            if not fitting:
                most = len(rules)
                break
            rules += fitting
        left = None if most is None else most - len(rules)
        other = list(self._each_that_fits([others] if left != 0 else []))
        if not other and least > len(rules):
            raise _FitsNothing
        if other and not rules:
            return self._counted(other[0], least, most)
        later = '""'
        if other:
            later = self._rules.add(f'(", " {other[0]}){_times(max(least - len(rules), 0), left)}')
        for index in reversed(range(len(rules))):
            body = f'", " {rules[index]} {later}' if index else f"{rules[index]} {later}"
            later = self._rules.add(body if index < least else f"({body})?")
        return later

    def _counted(self, element: str, least: int, most: int | None) -> str:
        body = element
        if most != 1:
            body += f' (", " {element}){_times(max(least - 1, 0), None if most is None else most - 1)}'
        return self._rules.add(body if least else f"({body})?")

    def _referred(self, reference: object) -> Any:
        """What a ``$ref`` points to, by a JSON pointer into the tool's parameters (RFC 6901)."""
        if not isinstance(reference, str) or not re.match("#(/|$)", reference):
            raise ValueError(f"$ref {_brief(reference)} does not point into the schema")
        found: Any = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise ValueError(f"$ref {_brief(reference)} points to nothing")
        return found


def _either(rules: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(rules))
    if not distinct:
        raise _FitsNothing
    return " | ".join(distinct)


def _both(one: Any, other: Any) -> Any:
    """A schema of what fits both, as far as what is enforced goes."""
    if isinstance(one, bool) or isinstance(other, bool):
        return (other if one is True else one) if isinstance(one, bool) else (one if other is True else other)
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        raise ValueError(f"{_brief(other if isinstance(one, Mapping) else one)} is no schema")
    merged = {**one, **other}
    left: list[Any] = []
    for name in [name for name in one if name in other and name in _ENFORCED]:
        ours, theirs = one[name], other[name]
        if ours == theirs and type(ours) is type(theirs):
            continue
        if name == "type":
            merged[name] = _common_types(_types(one), _types(other))
        elif name == "required":
            merged[name] = [*dict.fromkeys([*_names(one, name), *_names(other, name)])]
        elif name == "properties":
            pairs = _mapping(one, name), _mapping(other, name)
            merged[name] = {**pairs[0], **pairs[1]}
            for shared in pairs[0].keys() & pairs[1].keys():
                merged[name][shared] = {"allOf": [pairs[0][shared], pairs[1][shared]]}
        elif name in ("additionalProperties", "items"):
            merged[name] = {"allOf": [ours, theirs]}
        elif name == "enum":
            merged[name] = [value for value in _list(one, name) if value in _list(other, name)]
        elif name.lower().removeprefix("exclusive").startswith(("min", "max")):
            tighter = max if "min" in name.lower() else min
            merged[name] = tighter(_real(one, name), _real(other, name))
        elif name == "const":
            return False
        elif name == "prefixItems":
            raise ValueError("prefixItems of two schemas can't be one")
        elif name == "allOf":
            merged[name] = [*_list(one, name), *_list(other, name)]
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


def _choice(schema: Mapping[str, Any]) -> list[Any]:
    """The branches of anyOf or oneOf, each with what stands beside them; empty where there is none."""
    for name in ("anyOf", "oneOf"):
        if name in schema:
            rest = _without(schema, name)
            return [_both(rest, branch) for branch in _list(schema, name)] or [False]
    return []


def _without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: of for other, of in schema.items() if other != name and other in _ENFORCED}


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The types that ``schema`` names or means; empty where it says nothing of them."""
    if "type" not in schema:
        return [type_ for type_, names in _TELLING.items() if any(name in schema for name in names)][:1]
    types = [schema["type"]] if isinstance(schema["type"], str) else _list(schema, "type")
    for type_ in types:
        if type_ not in _TYPES:
            raise ValueError(f"{_brief(type_)} is no type")
    return types


def _declared(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The members that ``schema`` names: its properties, then what is required beside them."""
    properties = _mapping(schema, "properties")
    others = schema.get("additionalProperties", True)
    return properties | {name: others for name in _names(schema, "required") if name not in properties}


def _is_map(schema: Mapping[str, Any]) -> bool:
    """Whether the members' names are left to the model."""
    return not _declared(schema) and bool(schema.get("additionalProperties"))


def _is_keyword_argument(name: str) -> bool:
    """Whether Python reads ``name=`` as what it says; it normalizes identifiers."""
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and name != "__debug__"
        and name == unicodedata.normalize("NFKC", name)
    )


def _items(schema: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """The schemas of the first elements, and the one of all others; as of today, or before 2020."""
    if isinstance(schema.get("items"), list):
        return _list(schema, "items"), schema.get("additionalItems", True)
    return _list(schema, "prefixItems") if "prefixItems" in schema else [], schema.get("items", True)


def _is_one_of(value: object, types: Sequence[str]) -> bool:
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


def _literals(value: object) -> Iterator[str]:
    """The ways to write ``value``, each quoted for a rule. Raises ValueError for an infinite number."""
    json.dumps(value, allow_nan=False)
    literal = repr(value)
    yield _quoted(literal)
    if isinstance(value, str) and literal.startswith('"'):
        yield _quoted("'{}'".format(literal[1:-1].replace("'", r"\'")))


def _number(schema: Mapping[str, Any], digits: int) -> str:
    """A number within the bounds of ``schema`` with at most ``digits`` after the point."""
    least = _bound(schema, "minimum", "exclusiveMinimum", 1, digits)
    most = _bound(schema, "maximum", "exclusiveMaximum", -1, digits)
    if least is None and most is None:
        return "number" if digits else "integer"
    greatest = _GREATEST * 10**digits
    low = -greatest if least is None else max(least, -greatest)
    high = greatest if most is None else min(-most, greatest)
    below = (f'"-" {text}' for text in _magnitudes(max(1, -high), -low, digits))
    return _either([*below, *_magnitudes(max(low, 0), high, digits)])


def _bound(schema: Mapping[str, Any], name: str, exclusive: str, sign: int, digits: int) -> int | None:
    """The least number of 10**-digits that a lower bound allows, an upper one for its negative."""
    bounds = []
    strict = schema.get(exclusive)
    if name in schema:
        bounds.append(_beyond(sign * _real(schema, name), strict is True, digits))
    if strict is not None and not isinstance(strict, bool):
        bounds.append(_beyond(sign * _real(schema, exclusive), True, digits))
    return max(bounds, default=None)


def _beyond(bound: float, strict: bool, digits: int) -> int:
    units: int = 10**digits
    if not strict:
        return math.ceil(Fraction(str(bound)) * units)
    if not digits:
        return math.floor(Fraction(str(bound))) + 1
    # Digits that round to the bound itself would not be beyond it.
    return math.ceil(Fraction(str(math.nextafter(bound, math.inf))) * units)


def _magnitudes(low: int, high: int, digits: int) -> Iterator[str]:
    """The numbers from low to high, in units of 10**-digits and not negative, by their length."""
    for length in range(1, _WHOLE_DIGITS + 1):
        least = 0 if length == 1 else 10 ** (length - 1 + digits)
        start, end = max(low, least), min(high, 10 ** (length + digits) - 1)
        if start <= end:
            yield _between(str(start).zfill(length + digits), str(end).zfill(length + digits), length)


def _between(low: str, high: str, whole: int) -> str:
    """Digits from ``low`` to ``high``, which are of one length; ``whole`` of them are before the point.

    Zeros that end the fraction may be left out.
    """
    if not low:
        return '""'
    if whole > 0 and not _is_free(low, high):
        return _by_first_digit(low, high, lambda lower, upper: _between(lower, upper, whole - 1))
    if whole > 0:
        before = f"[0-9]{{{whole}}}"
        return f"{before} {_between(low[whole:], high[whole:], 0)}" if len(low) > whole else before
    after = f'"." {_fraction(low, high)}'
    return after if low.strip("0") else f"({after})?"


def _fraction(low: str, high: str) -> str:
    if _is_free(low, high):
        return f"[0-9]{{1,{len(low)}}}"

    def rest(lower: str, upper: str) -> str:
        if not lower:
            return '""'
        return _fraction(lower, upper) if lower.strip("0") else f"({_fraction(lower, upper)})?"

    return _by_first_digit(low, high, rest)


def _is_free(low: str, high: str) -> bool:
    return not low.strip("0") and not high.strip("9")


def _by_first_digit(low: str, high: str, rest: Callable[[str, str], str]) -> str:
    first, last, zeros, nines = int(low[0]), int(high[0]), "0" * (len(low) - 1), "9" * (len(low) - 1)
    if first == last:
        return f'"{first}" {rest(low[1:], high[1:])}'
    cases = []
    if low[1:] != zeros:
        cases.append(f'"{first}" {rest(low[1:], nines)}')
        first += 1
    if high[1:] != nines:
        cases.append(f'"{last}" {rest(zeros, high[1:])}')
        last -= 1
    if first <= last:
        cases.append(f"[{first}-{last}] {rest(zeros, nines)}")
    return f"({' | '.join(cases)})"


def _times(least: int, most: int | None) -> str:
    if most is None:
        return f"{{{least},}}" if least else "*"
    return f"{{{least},{most}}}"


def _least(schema: Mapping[str, Any], name: str) -> int:
    count: float = _real(schema, name) if name in schema else 0
    if not 0 <= count <= _MOST_COUNTED:
        raise ValueError(f"{name} must be from 0 to {_MOST_COUNTED}")
    return int(count)


def _most(schema: Mapping[str, Any], name: str) -> int | None:
    count: float = _real(schema, name) if name in schema else math.inf
    if count < 0:
        raise ValueError(f"{name} must not be negative")
    return None if count > _MOST_COUNTED else int(count)


def _real(schema: Mapping[str, Any], name: str) -> int | float:
    value: object = schema[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {_brief(value)}")
    return value


def _mapping(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = schema.get(name, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, not {_brief(value)}")
    return dict(value)


def _list(schema: Mapping[str, Any], name: str) -> list[Any]:
    value = schema[name]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {_brief(value)}")
    return list(value)


def _names(schema: Mapping[str, Any], name: str) -> list[str]:
    names = _list(schema, name) if name in schema else []
    if not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name} must be a list of names")
    return names


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def _in_class(character: str) -> str:
    return f"\\U{ord(character):08x}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
