"""Prompt templates: what ``prompt_name`` names.

The form is that of Langchain-Chatchat's PROMPT_TEMPLATES (0.2) and prompt_settings.yaml (0.3), type ->
name -> template; a template has Jinja's placeholders, ``{{ input }}``, or those of a Python format string,
``{input}``. It is neither: values are put in place of placeholders, once, and nothing is evaluated.

- ``{{`` always begins a placeholder. In a template with one, single braces are text.
- In a template without one, ``{input}`` is a placeholder, ``{word}`` of another word is an error, and all
  other braces are text: there are no escapes.

Exceptions::

    InvalidTemplates        the operator's file can't be used
    TemplateRefused         a request can't be honoured with the template it names
     |- UnknownTemplate     there is none of this name
     '- UnfitTemplate       it has no place for what was asked
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import yaml

LLM_CHAT: Final = "llm_chat"
COMPLETION: Final = "completion"
DEFAULT: Final = "default"
WITH_HISTORY: Final = "with_history"
INPUT: Final = "input"
HISTORY: Final = "history"

VARIABLES: Mapping[str, tuple[str, ...]] = {LLM_CHAT: (INPUT, HISTORY), COMPLETION: (INPUT, HISTORY)}
"""The types that are checked and rendered here, with the variables that their templates may have."""

SHOWN_CHARACTERS = 100
QUOTES = "a template that begins with a brace needs quotes"

_DOUBLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
# A word in single braces, or the beginning of a Python format string's conversion of it.
_WORD = re.compile(r"\{\s*([^\W\d]\w*)\s*([}!:.\[])")
_SURROGATE = re.compile("[\ud800-\udfff]")


class InvalidTemplates(ValueError):
    """Templates that can't be used; the message is one line that names type and name."""


class TemplateRefused(Exception):
    """The request can't be honoured with the template that it names; the message says why."""


class UnknownTemplate(TemplateRefused):
    """There is no template of this name; the message lists the names."""


class UnfitTemplate(TemplateRefused):
    """The template has no place for what was asked."""


@dataclass(frozen=True, slots=True)
class Template:
    """``text`` cut at its placeholders: literal, variable, literal, …, literal."""

    text: str
    pieces: Sequence[str]

    @property
    def variables(self) -> Set[str]:
        """What it has places for."""
        return frozenset(self.pieces[1::2])

    def render(self, values: Mapping[str, str]) -> str:
        """``values`` in their places, as they are; it has one for each of ``variables``."""
        return "".join(values[piece] if n % 2 else piece for n, piece in enumerate(self.pieces))


class PromptTemplates:
    """All templates, by type and name."""

    def __init__(self, texts: Mapping[str, object]) -> None:
        """``texts``: type -> name -> template; types that are not used here are kept unchecked.

        Raises InvalidTemplates.
        """
        self._texts = texts
        self._templates = {kind: dict(_checked(kind, texts[kind])) for kind in VARIABLES if kind in texts}

    @classmethod
    def from_yaml(cls, *texts: str) -> PromptTemplates:
        """Templates written as YAML; an entry of a later text replaces that of an earlier one.

        Raises InvalidTemplates.
        """
        merged: dict[str, Any] = {}
        for text in texts:
            for kind, entries in _parsed(text).items():
                earlier = merged.get(kind)
                if isinstance(earlier, dict) and isinstance(entries, dict):
                    merged[kind] = earlier | entries
                else:
                    merged[kind] = entries
        return cls(merged)

    def names(self, kind: str) -> list[str]:
        """The names of a type's templates, in the order they were written; none for an unknown type."""
        entries = self._texts.get(kind)
        if not isinstance(entries, Mapping):
            return []
        return [name for name, text in entries.items() if isinstance(name, str) and isinstance(text, str)]

    def text(self, kind: str, name: str) -> str:
        """A template as it was written. Raises UnknownTemplate."""
        if name not in self.names(kind):
            raise self._unknown(kind, name)
        entries: Any = self._texts[kind]
        return str(entries[name])

    @property
    def texts(self) -> dict[str, dict[str, str]]:
        """All templates as they were written, by type and name."""
        kinds = [kind for kind in self._texts if isinstance(kind, str)]
        return {kind: {name: self.text(kind, name) for name in self.names(kind)} for kind in kinds}

    def variables(self, kind: str, name: str) -> Set[str]:
        """What a template of a type in VARIABLES has places for. Raises UnknownTemplate."""
        return self._template(kind, name).variables

    def render(self, kind: str, name: str, values: Mapping[str, str]) -> str:
        """A template of a type in VARIABLES with ``values``, one for each variable of the type, in place of
        its placeholders. Raises UnknownTemplate."""
        return self._template(kind, name).render(values)

    def _template(self, kind: str, name: str) -> Template:
        template = self._templates.get(kind, {}).get(name)
        if template is None:
            raise self._unknown(kind, name)
        return template

    def _unknown(self, kind: str, name: str) -> UnknownTemplate:
        known = ", ".join(f"'{one}'" for one in self.names(kind)) or "none"
        asked = name[:SHOWN_CHARACTERS]
        return UnknownTemplate(f"There is no prompt template '{asked}' of type '{kind}'; there are: {known}.")


def _parsed(text: str) -> dict[str, Any]:
    """One YAML text: an object, or nothing at all."""
    try:
        found = yaml.safe_load(text)
        _refuse_duplicates(yaml.compose(text, yaml.SafeLoader), depth=2)
    except InvalidTemplates:
        raise
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InvalidTemplates(f"not valid YAML: {where}{_line(error.problem)}; {QUOTES}") from error
    except Exception as error:
        # PyYAML lets some errors of Python's own through, as for "!!int x" and for deep nesting.
        raise InvalidTemplates(f"not valid YAML: {_line(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidTemplates("must be an object: type -> name -> template")
    return found


def _refuse_duplicates(node: yaml.Node | None, depth: int) -> None:
    """Of two entries of one name PyYAML would take the last one, silently."""
    if depth == 0 or not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise InvalidTemplates(f"line {line}: there are two entries '{_line(key.value)}'")
            seen.add((key.tag, key.value))
        _refuse_duplicates(value, depth - 1)


def _checked(kind: str, entries: object) -> Iterator[tuple[str, Template]]:
    """The templates of one type. Raises InvalidTemplates."""
    if not isinstance(entries, Mapping):
        raise InvalidTemplates(f"{kind}: must be an object: name -> template")
    for name, text in entries.items():
        if not isinstance(name, str):
            raise InvalidTemplates(f"{kind}/{_line(name)}: the name must be a string; put it in quotes")
        try:
            yield name, _template(kind, name, text)
        except InvalidTemplates as error:
            raise InvalidTemplates(f"{kind}/{_line(name)}: {error}") from error


def _template(kind: str, name: str, text: object) -> Template:
    if not isinstance(text, str):
        raise InvalidTemplates(f"must be a string; {QUOTES}")
    if _SURROGATE.search(text):
        raise InvalidTemplates("holds half of a surrogate pair; write the character itself")
    for mark in ("{%", "{#"):
        if mark in text:
            raise InvalidTemplates(f"holds {mark}, which is not supported: only values are put in")
    variables = VARIABLES[kind]
    template = Template(text, _double(text, variables) if "{{" in text else _single(text, variables))
    if INPUT not in template.variables:
        raise InvalidTemplates("has no place for the query: {{ input }} or {input}")
    if (kind, name) == (COMPLETION, WITH_HISTORY) and HISTORY not in template.variables:
        raise InvalidTemplates("has no place for the history: {{ history }} or {history}")
    return template


def _double(text: str, variables: Sequence[str]) -> list[str]:
    """A template with ``{{ variable }}``, cut."""
    pieces = _DOUBLE.split(text)
    pieces[1::2] = [inner.strip() for inner in pieces[1::2]]
    for inner in pieces[1::2]:
        if inner not in variables:
            known = " and ".join("{{ " + one + " }}" for one in variables)
            raise InvalidTemplates(f"unknown variable {{{{ {_line(inner)} }}}}; there are {known}")
    if any("{{" in literal for literal in pieces[::2]):
        raise InvalidTemplates("holds {{ without }}")
    return pieces


def _single(text: str, variables: Sequence[str]) -> list[str]:
    """A template with ``{variable}``, cut."""
    for found in _WORD.finditer(text):
        word, end = found.groups()
        if found[0] != f"{{{word}}}" if word in variables else end == "}":
            known = " and ".join(f"{{{one}}}" for one in variables)
            raise InvalidTemplates(
                f"unknown variable {_line(found[0])}; there are {known}, "
                "and in a template with {{ input }} single braces are text"
            )
    return re.split(r"\{(" + "|".join(variables) + r")\}", text)


def _line(value: object) -> str:
    """For a message: one line, not too long."""
    return " ".join(str(value).split())[:SHOWN_CHARACTERS]
