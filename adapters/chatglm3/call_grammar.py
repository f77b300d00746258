"""A grammar of ChatGLM3's tool calls, so that a call which has to come always parses and fits its schema.

Written in the EBNF of xgrammar, which vLLM takes as ``StructuredOutputsParams(grammar=...)``. The model
writes arguments as Python literals, the way ``repr`` does, so a JSON schema's own grammar is of no use.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapters.chatglm3.calls import FUNCTION, INTERPRETER
from adapters.chatglm3.grammar_rules import (
    FitsNothing,
    Rules,
    quoted,
)
from adapters.chatglm3.schema_grammar import Schemas
from engine.base import Tool

# The model's own dummy prefix: a text begins with a piece that has a space in front, and so does the
# second line, which is encoded on its own.
_FENCE_START = " ```python\n"

_FENCE_END = "\n```"


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
    rules = Rules()
    texts = [_tool_text(rules, tool, with_header) for tool in tools]
    return rules.text(" | ".join(dict.fromkeys(texts)))


def _tool_text(rules: Rules, tool: Tool, with_header: bool) -> str:
    if not tool.name.isprintable() or not tool.name.strip():
        raise ValueError(f"{tool.name!r} can't be a tool's name.")
    header = f" {tool.name}\n" if with_header else ""
    if tool.name == INTERPRETER:
        return f"{quoted(header + _FENCE_START)} code {quoted(_FENCE_END)}"
    try:
        arguments = Schemas(rules, tool.parameters).arguments()
    except FitsNothing as error:
        raise ValueError(f"No arguments fit the parameters of the tool {tool.name!r}.") from error
    except RecursionError as error:
        raise ValueError(f"The parameters of the tool {tool.name!r} are nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"The parameters of the tool {tool.name!r}: {error}") from error
    before, after = quoted(f"{header}{_FENCE_START}{FUNCTION}("), quoted(f"){_FENCE_END}")
    return f"{before} {arguments} {after}"
