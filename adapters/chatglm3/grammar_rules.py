"""The EBNF of xgrammar: rules, and the ones that literals of Python are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MOST_RULES = 5_000

_MOST_CHARACTERS = 300_000

# Compiling takes time by the square of a choice's length: a second for this one.
_LONGEST_RULE = 50_000

# Numbers end: every 64-bit integer has no more digits, every double's repr no more after the point.
WHOLE_DIGITS = 19

FRACTION_DIGITS = 20

# Never bare in a string: what ends lines somewhere, other control characters, half surrogate pairs.
CONTROL_CHARACTERS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"

# Rules with a name of their own; a grammar gets the ones it uses.
_BASE = {
    # To the closing quote. A rule that ends after each character would cost 10 ms a token or more.
    "single": rf""""'" | [^'\\{CONTROL_CHARACTERS}] single | escape single""",
    "double": rf""""\"" | [^\x22\\{CONTROL_CHARACTERS}] double | escape double""",
    "escape": r'"\\" ([\\\x22'
    r"'"
    r'nrt] | "x" hex hex | "u" plane | "U000" [1-9a-fA-F] hex{4} | "U0010" hex{4})',
    "plane": "[0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2}",
    "hex": "[0-9a-fA-F]",
    "string": r""""'" single | "\"" double""",
    "boolean": '"True" | "False"',
    "none": '"None"',
    "integer": '"-"? whole',
    "whole": f'"0" | [1-9] [0-9]{{0,{WHOLE_DIGITS - 1}}}',
    # 9.99e299 at most, which is finite.
    "number": '"-"? (whole fraction? | [0-9] fraction? [eE] [+-]? ([0-9]{1,2} | [12] [0-9]{2}))',
    "fraction": f'"." [0-9]{{1,{FRACTION_DIGITS}}}',
    "any": "string | number | boolean | none | list | dict",
    "list": '"[" (any (", " any)*)? "]"',
    "dict": '"{" (pair (", " pair)*)? "}"',
    "pair": 'string ": " any',
    "code": r'line ("\n" line)*',
    # Not one that begins with the fence.
    "line": r'"`"{0,2} ([^`\x00-\x08\x0a-\x1f\x7f\ud800-\udfff] [^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*)?',
}


class FitsNothing(Exception):
    """No value fits this schema."""


class Rules:
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


def either(rules: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(rules))
    if not distinct:
        raise FitsNothing
    return " | ".join(distinct)


def times(least: int, most: int | None) -> str:
    if most is None:
        return f"{{{least},}}" if least else "*"
    return f"{{{least},{most}}}"


def quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def in_class(character: str) -> str:
    return f"\\U{ord(character):08x}"
