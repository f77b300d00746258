"""Tool calls as ChatGLM3 writes them: keyword arguments that are Python literals.

Source: PROMPT.md and modeling_chatglm.py of ChatGLM3 (github.com/zai-org/ChatGLM3). The model's authors
evaluate the call; here it is read as a syntax tree and nothing is ever run.
"""

from __future__ import annotations

import ast
import json
import keyword
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

FUNCTION = "tool_call"
INTERPRETER = "interpreter"

_FENCE = "```"

# What JSON calls the same; models that were trained on it as well write these.
_JSON_NAMES = {"true": True, "false": False, "null": None}

# Deeper than any tool's arguments, and far from the interpreter's own limit.
_MOST_NESTED = 60


class NotACall(Exception):
    """The text is not one call of tool_call with literal arguments."""


def read_call(body: str) -> dict[str, Any]:
    """The arguments of the call in ``body``, which may stand in a code fence. Tuples become lists.

    Raises NotACall, also for values that JSON does not have.
    """
    try:
        with warnings.catch_warnings():
            # About escapes in the model's strings.
            warnings.simplefilter("ignore")
            tree = ast.parse(_without_fence(body).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotACall("not a Python expression") from error
    if not isinstance(tree, ast.Call) or tree.args:
        raise NotACall("not a call with keyword arguments")
    if not isinstance(tree.func, ast.Name) or tree.func.id != FUNCTION:
        raise NotACall(f"not a call of {FUNCTION}")
    arguments: dict[str, Any] = {}
    for given in tree.keywords:
        value = _literal(given.value, 0)
        if given.arg is not None:
            pairs: Iterable[tuple[str, Any]] = [(given.arg, value)]
        elif isinstance(value, dict):
            pairs = value.items()
        else:
            raise NotACall("** of what is no dict")
        for name, one in pairs:
            if name in arguments:
                raise NotACall(f"{name} is given twice")
            arguments[name] = one
    return arguments


def _literal(node: ast.expr, depth: int) -> Any:
    if depth > _MOST_NESTED:
        raise NotACall("nested too deeply")
    match node:
        case ast.Constant(value=bool() | int() | str() | None as value):
            return value
        case ast.Constant(value=float() as value) if value - value == 0:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            not isinstance(value, bool) and value - value == 0
        ):
            return -value
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element, depth + 1) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value, depth + 1) for key, value in zip(keys, values, strict=True)}
    raise NotACall("an argument is not a literal that JSON has")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise NotACall("a dict's key is not a string")


def read_code(body: str) -> str:
    """The code in ``body``, which mostly stands in a fence."""
    return _without_fence(body).removesuffix("\n")


def _without_fence(body: str) -> str:
    """What stands between the line that opens a fence and the end, or what closes it."""
    text = body.strip()
    if not text.startswith(_FENCE):
        return body.removeprefix(" ")
    first, newline, rest = text.partition("\n")
    inside = rest if newline else first.removeprefix(_FENCE).removeprefix("python")
    return inside.removesuffix(_FENCE)


def write_call(arguments: Mapping[str, Any]) -> str:
    """A call in the form that the model was trained on, fence included."""
    if all(map(_is_parameter, arguments)):
        inside = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    else:
        inside = f"**{dict(arguments)!r}"
    return f"```python\n{FUNCTION}({inside})\n```"


def _is_parameter(name: str) -> bool:
    """Whether Python reads ``name`` before a ``=`` as it is: it takes ``ª`` for ``a`` there."""
    stays = unicodedata.normalize("NFKC", name) == name
    return stays and name.isidentifier() and not keyword.iskeyword(name)


def write_code(code: str) -> str:
    """Code for the interpreter, in its fence."""
    return f"```python\n{code}\n```"


def json_pieces(arguments: Mapping[str, Any]) -> list[str]:
    """JSON text of ``arguments``, a piece for each of them and one for the end.

    Raises NotACall for an integer too long to be written.
    """
    pieces = []
    before = "{"
    for name, value in arguments.items():
        try:
            pieces.append(f"{before}{_json(name)}: {_json(value)}")
        except ValueError as error:
            raise NotACall("an integer is too long") from error
        before = ", "
    return [*pieces, "}" if pieces else "{}"]


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, which only an escape can carry.
        return json.dumps(value, allow_nan=False)
    return text
