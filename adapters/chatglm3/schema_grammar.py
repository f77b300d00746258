"""Rules of Python literals that fit a JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from typing import Any
from urllib.parse import unquote

from adapters.chatglm3.grammar_rules import (
    CONTROL_CHARACTERS,
    FRACTION_DIGITS,
    FitsNothing,
    Rules,
    either,
    in_class,
    quoted,
    times,
)
from adapters.chatglm3.json_schema import (
    ENFORCED,
    TYPES,
    both,
    brief,
    choice_of,
    declared,
    is_keyword_argument,
    is_map,
    is_one_of,
    items_of,
    least_in,
    list_in,
    most_in,
    names_in,
    types_of,
    without,
)
from adapters.chatglm3.number_grammar import number_rule

_MOST_NESTED = 50

_MOST_SHAPES = 200

# In longer strings of bounded length nothing can be escaped: each character costs a rule.
_MOST_ESCAPABLE = 64


class Schemas:
    """Makes rules of the subschemas of one tool's parameters.

    A method that gives a rule gives what can stand in a sequence as it is: a name or a quoted text.
    """

    def __init__(self, rules: Rules, root: Mapping[str, Any]) -> None:
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
        names = {name for shape in shapes for name in declared(shape)}
        as_keywords = all(map(is_keyword_argument, names)) and not any(map(is_map, shapes))
        return self._rules.add(either(self._arguments(shapes, as_keywords)))

    def _arguments(self, shapes: Sequence[Mapping[str, Any]], as_keywords: bool) -> Iterator[str]:
        for shape in shapes:
            closed = bool(declared(shape)) or not is_map(shape)
            with suppress(FitsNothing):
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
            raise ValueError(f"{brief(schema)} is no schema")
        if choice := choice_of(schema):
            for branch in choice:
                yield from self._shapes(branch)
        elif "$ref" in schema or "allOf" in schema:
            yield from self._shapes(self._resolved(schema))
        elif "object" in (types_of(schema) or ["object"]):
            yield schema

    def value(self, schema: object) -> str:
        """The rule of a value that fits ``schema``."""
        if isinstance(schema, bool):
            if not schema:
                raise FitsNothing
            return "any"
        if not isinstance(schema, Mapping):
            raise ValueError(f"{brief(schema)} is no schema")
        key = json.dumps({name: of for name, of in schema.items() if name in ENFORCED})
        if key in self._entered:
            raise FitsNothing
        if key not in self._known:
            before = len(self._known)
            self._known[key] = name = self._rules.reserve()
            try:
                with self._within(key):
                    self._rules.define(name, self._body(schema))
            except FitsNothing:
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
            values = [schema["const"]] if "const" in schema else list_in(schema, "enum")
            types = types_of(schema) if "type" in schema else list(TYPES)
            if schema.get("nullable") is True:
                values, types = [*values, None], [*types, "null"]
            return either(text for value in values if is_one_of(value, types) for text in literals(value))
        if schema.get("nullable") is True:
            return self._either([without(schema, "nullable"), {"type": "null"}])
        # Before allOf, which keeps what stands in two places from being lost.
        if choice := choice_of(schema):
            return self._either(choice)
        if "$ref" in schema or "allOf" in schema:
            return self.value(self._resolved(schema))
        types = types_of(schema)
        if len(types) > 1:
            return self._either([{**schema, "type": one} for one in types])
        return self._typed(types[0], schema) if types else "any"

    def _resolved(self, schema: Mapping[str, Any]) -> Any:
        """``schema`` with what it refers to put in, or where it refers to nothing, all of allOf."""
        name = "$ref" if "$ref" in schema else "allOf"
        others = [self._referred(schema[name])] if name == "$ref" else list_in(schema, name)
        return reduce(both, others, without(schema, name))

    def _either(self, schemas: Sequence[Any]) -> str:
        return either(self._each_that_fits(schemas))

    def _each_that_fits(self, schemas: Sequence[Any]) -> Iterator[str]:
        for schema in schemas:
            with suppress(FitsNothing):
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
                return number_rule(schema, 0 if type_ == "integer" else FRACTION_DIGITS)
        return TYPES[type_]

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = least_in(schema, "minLength"), most_in(schema, "maxLength")
        if most is not None and most < least:
            raise FitsNothing
        if not least and most is None:
            return "string"
        return f""""'" {self._rest("'", least, most)} | "\\"" {self._rest('"', least, most)}"""

    def _rest(self, quote: str, least: int, most: int | None) -> str:
        """The rule of a string's rest, its closing quote included."""
        character, end = rf"[^{in_class(quote)}\\{CONTROL_CHARACTERS}]", quoted(quote)
        if max(least, most or 0) > _MOST_ESCAPABLE:
            return self._rules.add(f"{character}{times(least, most)} {end}")
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
        required = names_in(schema, "required")
        members = declared(schema)
        open_ = not closed and (not members or "additionalProperties" in schema)
        # Two rules for each member: for when it is the first one, and for after another.
        first, later = self._others(
            schema.get("additionalProperties", True) if open_ else False, list(members)
        )
        for name, of in reversed(members.items()):
            try:
                with self._after_text():
                    member = f"{quoted(before(name))} {self.value(of)}"
            except FitsNothing:
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
        except FitsNothing:
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
        rest = self._rules.add(rf'''[^'\\{CONTROL_CHARACTERS}]* "'"''')
        after = dict.fromkeys((name[:end] for name in taken for end in range(len(name), -1, -1)), "")
        for start in sorted(after, key=len, reverse=True):
            nexts = {longer[-1]: longer for longer in after if longer[:-1] == start and longer}
            found = [f"{quoted(next_)} {after[longer]}" for next_, longer in nexts.items()]
            found.append(f"[^'\\\\{CONTROL_CHARACTERS}{''.join(map(in_class, nexts))}] {rest}")
            if start not in taken:
                found.append('"\'"')
            after[start] = self._rules.add(" | ".join(found))
        return self._rules.add(f'"\'" {after[""]}')

    def _array(self, schema: Mapping[str, Any]) -> str:
        least, most = least_in(schema, "minItems"), most_in(schema, "maxItems")
        if most is not None and most < least:
            raise FitsNothing
        with self._after_text():
            elements = self._elements(*items_of(schema), least, most)
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
            raise FitsNothing
        if other and not rules:
            return self._counted(other[0], least, most)
        later = '""'
        if other:
            later = self._rules.add(f'(", " {other[0]}){times(max(least - len(rules), 0), left)}')
        for index in reversed(range(len(rules))):
            body = f'", " {rules[index]} {later}' if index else f"{rules[index]} {later}"
            later = self._rules.add(body if index < least else f"({body})?")
        return later

    def _counted(self, element: str, least: int, most: int | None) -> str:
        body = element
        if most != 1:
            body += f' (", " {element}){times(max(least - 1, 0), None if most is None else most - 1)}'
        return self._rules.add(body if least else f"({body})?")

    def _referred(self, reference: object) -> Any:
        """What a ``$ref`` points to, by a JSON pointer into the tool's parameters (RFC 6901)."""
        if not isinstance(reference, str) or not re.match("#(/|$)", reference):
            raise ValueError(f"$ref {brief(reference)} does not point into the schema")
        found: Any = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise ValueError(f"$ref {brief(reference)} points to nothing")
        return found


def literals(value: object) -> Iterator[str]:
    """The ways to write ``value``, each quoted for a rule. Raises ValueError for an infinite number."""
    json.dumps(value, allow_nan=False)
    literal = repr(value)
    yield quoted(literal)
    if isinstance(value, str) and literal.startswith('"'):
        yield quoted("'{}'".format(literal[1:-1].replace("'", r"\'")))
