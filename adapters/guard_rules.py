"""The rules of a guard list as an operator writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Action = Literal["block", "mask", "flag"]
Side = Literal["input", "output"]

MOST_RULES = 100
MOST_WORDS = 10_000
# Each takes a few hundred bytes.
MOST_WORD_CHARACTERS = 200_000
LONGEST_MATCH = 4096

Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


class InvalidGuard(ValueError):
    """Rules that can't be used; the message is one line that names the rule."""


class RuleFields(BaseModel):
    """One rule; either ``words`` or a ``pattern``."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    words: list[Word] = Field(default_factory=list, min_length=1, max_length=MOST_WORDS)
    match: Literal["word", "substring"] = "word"
    pattern: str | None = Field(None, min_length=1, max_length=LONGEST_MATCH)
    ignore_case: bool = False
    longest: int = Field(256, ge=1, le=LONGEST_MATCH)
    action: Action
    where: Literal["input", "output", "both"] = "both"
    replacement: str = Field("***", max_length=200)


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    rules: list[RuleFields] = Field(min_length=1, max_length=MOST_RULES)


def parsed(text: str) -> Sequence[RuleFields]:
    """The rules of a file. Raises InvalidGuard."""
    try:
        found = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InvalidGuard(f"not valid YAML: {where}{error.problem}") from error
    except Exception as error:
        # PyYAML lets some errors of Python's own through, as for "!!int x" and for deep nesting.
        reason = str(error).splitlines() or [type(error).__name__]
        raise InvalidGuard(f"not valid YAML: {reason[0]}") from error
    if not isinstance(found, dict):
        raise InvalidGuard("must be an object with the key 'rules'")
    try:
        rules = _File.model_validate(found).rules
    except ValidationError as error:
        raise InvalidGuard(_first(error, found)) from error
    names: set[str] = set()
    for rule in rules:
        if rule.name in names:
            raise InvalidGuard(f"there are two rules '{rule.name}'")
        names.add(rule.name)
        _check(rule)
    return rules


def _check(rule: RuleFields) -> None:
    """Raises InvalidGuard."""
    given, place = rule.model_fields_set, f"rule '{rule.name}': "
    if ("words" in given) == (rule.pattern is not None):
        raise InvalidGuard(f"{place}has to have either words or a pattern")
    other = {"match"} if rule.pattern is not None else {"ignore_case", "longest"}
    for name in sorted(other & given):
        kind = "words" if rule.pattern is not None else "a pattern"
        raise InvalidGuard(f"{place}{name} belongs to {kind}")
    if "replacement" in given and rule.action != "mask":
        raise InvalidGuard(f"{place}replacement belongs to the action mask")
    if sum(map(len, rule.words)) > MOST_WORD_CHARACTERS:
        raise InvalidGuard(f"{place}its words have more than {MOST_WORD_CHARACTERS} characters together")


def _first(error: ValidationError, found: dict[Any, Any]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    loc = first["loc"]
    message = first["msg"].splitlines()[0]
    if loc[:1] != ("rules",) or len(loc) < 2:
        return ": ".join([*map(str, loc), message])
    index = int(loc[1])
    rule = found["rules"][index]
    name = rule.get("name") if isinstance(rule, dict) else None
    place = f"rule '{name}'" if isinstance(name, str) else f"rule {index + 1}"
    return f"{place[:100]}: " + ": ".join([*map(str, loc[2:]), message])
