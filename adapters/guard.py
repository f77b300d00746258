"""What may not be asked, and not be answered: an operator's list of words and regular expressions.

The rules stand in a YAML file, see docs/guard.md. Those that block come first, and then all others in its
order; a rule sees what those before it left. Text is given on as soon as nothing that follows could make a
match of it, whatever pieces it comes in; with the rules that only note what they find it is given on at once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from adapters.chat_format import Piece, ToolCallDelta
from adapters.guard_patterns import Pattern, PatternFinder
from adapters.guard_rules import Action, InvalidGuard, RuleFields, Side, parsed
from adapters.guard_words import Segment, WordFinder, Words

# A finder may take the longer for each match the more text there is.
MOST_AT_ONCE = 4096

# How long a regular expression may take over so much.
PATTERN_SECONDS = 0.02

# JSON's strings and numbers.
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')


class Finder(Protocol):
    """Looks for something in one text."""

    def more(self, text: str, *, last: bool = False) -> list[Segment]:
        """What is certain now; the pieces join to the text. Raises TimeoutError."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what is looked for, and what is done where it is found."""

    name: str
    action: Action
    replacement: str
    sought: Words | Pattern

    def finder(self) -> Finder:
        """For one text."""
        return WordFinder(self.sought) if isinstance(self.sought, Words) else PatternFinder(self.sought)


@dataclass(slots=True)
class Findings:
    """What was found in a text, or in several: how often by the name of each rule that lets it go on, which
    rule ended it, and which ones took too long."""

    passed: Counter[str] = field(default_factory=Counter)
    blocked_by: str | None = None
    too_slow: set[str] = field(default_factory=set)

    @property
    def matches(self) -> Counter[str]:
        """How often, by the rule's name."""
        return self.passed + Counter([self.blocked_by] if self.blocked_by is not None else [])

    def fields(self) -> dict[str, object]:
        """For the row; empty where nothing was found."""
        fields: dict[str, object] = dict(self.matches)
        return fields | ({"too_slow": sorted(self.too_slow)} if self.too_slow else {})


class Stage:
    """One rule on one text. A rule that takes too long can't say that the text is right: it is blocked then,
    whatever the action, but for a rule that only notes, which looks no further."""

    def __init__(self, rule: Rule, findings: Findings) -> None:
        self._rule = rule
        self._finder: Finder | None = rule.finder()
        self._findings = findings

    def more(self, text: str, *, last: bool) -> str:
        """What may be given on now."""
        if self._finder is None:
            return text
        rule, given = self._rule, []
        try:
            for word, is_match in self._finder.more(text, last=last):
                if not is_match:
                    given.append(word)
                    continue
                if rule.action == "block":
                    self._findings.blocked_by = rule.name
                    break
                self._findings.passed[rule.name] += 1
                given.append(rule.replacement)
        except TimeoutError:
            self._findings.too_slow.add(rule.name)
            self._finder = None
            if rule.action != "flag":
                self._findings.blocked_by = rule.name
        return text if rule.action == "flag" else "".join(given)


class Stages:
    """Rules on one text, one after the other; after one has blocked it nothing more is given on."""

    def __init__(self, rules: Sequence[Rule], findings: Findings) -> None:
        self._findings = findings
        self._stages = [Stage(rule, findings) for rule in rules]

    def more(self, text: str, *, last: bool = False) -> str:
        """What may be given on now."""
        if len(text) <= MOST_AT_ONCE:
            return self._pass(text, last)
        ends = range(MOST_AT_ONCE, len(text) + MOST_AT_ONCE, MOST_AT_ONCE)
        pieces = (self._pass(text[end - MOST_AT_ONCE : end], last and end >= len(text)) for end in ends)
        return "".join(pieces)

    def _pass(self, text: str, last: bool) -> str:
        findings = self._findings
        if findings.blocked_by is not None:
            return ""
        for stage in self._stages:
            text = stage.more(text, last=last)
            # What a rule blocks is the end of the text for those after it.
            last = last or findings.blocked_by is not None
        return text


class OutputGuard:
    """The rules on one answer: its text, and the strings and numbers in its calls' arguments.

    A call is held back until it is whole, for JSON may write a character in several ways.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self.findings = Findings()
        self._text = Stages(rules, self.findings)
        # The call that is being held back: its place, its name, its arguments so far.
        self._call: tuple[int, str | None, list[str]] | None = None

    @property
    def blocked(self) -> bool:
        """Whether the answer has ended here."""
        return self.findings.blocked_by is not None

    def read(self, piece: Piece, *, last: bool) -> Piece:
        """``piece`` with what may be given on now. ``last``: nothing comes after it."""
        if self.blocked:
            return Piece(ended=True)
        if piece.text or last:
            piece.text = self._text.more(piece.text, last=last)
        if piece.tool_calls or (last and self._call is not None):
            piece.tool_calls = list(self._whole_calls(piece.tool_calls, last))
        piece.ended = piece.ended or self.blocked
        return piece

    def _whole_calls(self, deltas: Sequence[ToolCallDelta], last: bool) -> Iterator[ToolCallDelta]:
        for delta in deltas:
            if self._call is None or delta.index != self._call[0]:
                yield from self._whole_call()
                self._call = (delta.index, delta.name, [])
            self._call[2].append(delta.arguments)
        if last:
            yield from self._whole_call()

    def _whole_call(self) -> Iterator[ToolCallDelta]:
        if self._call is None or self.blocked:
            return
        index, name, pieces = self._call
        self._call = None
        arguments = passed_json(self._rules, "".join(pieces), self.findings)
        if not self.blocked:
            yield ToolCallDelta(index, name, arguments)


class Guard:
    """All rules, by what they are for."""

    def __init__(self, rules: Mapping[Side, Sequence[Rule]]) -> None:
        self.input_rules = rules["input"]
        self.output_rules = rules["output"]

    @classmethod
    def from_yaml(cls, text: str) -> Guard:
        """Raises InvalidGuard, naming the rule."""
        rules: dict[Side, list[Rule]] = {"input": [], "output": []}
        # What is found after the place where an answer is ended must not depend on how it comes.
        for fields in sorted(parsed(text), key=lambda fields: fields.action != "block"):
            rule = Rule(fields.name, fields.action, fields.replacement, sought(fields))
            if fields.where in ("input", "both"):
                rules["input"].append(rule)
            if fields.where in ("output", "both"):
                rules["output"].append(rule)
        return cls(rules)

    @property
    def hides_output(self) -> bool:
        """Whether what the engine generated may not all be told."""
        return any(rule.action != "flag" for rule in self.output_rules)

    def output(self) -> OutputGuard | None:
        """For one answer; None where there are no rules for it."""
        return OutputGuard(self.output_rules) if self.output_rules else None


def passed(rules: Sequence[Rule], text: str, findings: Findings) -> str:
    """What the rules leave of a whole text."""
    return Stages(rules, findings).more(text, last=True)


def passed_json(rules: Sequence[Rule], text: str, findings: Findings) -> str:
    """What the rules leave of JSON: of each string as it reads, and of each number. A text that is no JSON is
    taken as it is."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return passed(rules, text, findings)

    def value(match: re.Match[str]) -> str:
        written = match[0]
        before = json.loads(written) if written[0] == '"' else written
        after = passed(rules, before, findings)
        return written if after == before else json.dumps(after, ensure_ascii=False)

    return _VALUE.sub(value, text)


def sought(fields: RuleFields) -> Words | Pattern:
    """What a rule looks for. Raises InvalidGuard."""
    if fields.pattern is None:
        return Words(fields.words, whole=fields.match == "word")
    try:
        return Pattern(
            fields.pattern,
            ignore_case=fields.ignore_case,
            longest=fields.longest,
            seconds=PATTERN_SECONDS,
        )
    except ValueError as error:
        raise InvalidGuard(f"rule '{fields.name}': pattern: {error}") from error
