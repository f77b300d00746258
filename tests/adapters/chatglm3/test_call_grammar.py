"""Random models under the grammar write valid calls; what a correct model writes is let through."""

from __future__ import annotations

import ast
import json
import math
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.chatglm3.call_grammar import call_grammar
from adapters.chatglm3.calls import read_call, read_code, write_call, write_code
from engine.base import Tool

xgrammar = pytest.importorskip("xgrammar")
jsonschema = pytest.importorskip("jsonschema")

# Each byte is a token, and some have more than one, as in a real vocabulary.
LONGER = [
    "  ",
    "```",
    "python",
    "\n```",
    "')",
    "', ",
    "='",
    "tool_call(",
    "你",
    "好",
    "😀",
    "é",
    "None",
    "00",
    "<|user|>",
]
VOCABULARY = [bytes([byte]) for byte in range(256)] + [text.encode() for text in LONGER]
END = len(VOCABULARY)
CLOSERS = [VOCABULARY.index(text) for text in (b"'", b'"', b")", b"]", b"}", b"\n", b"`", b"N", b"0", b"1")]

Schema = dict[str, Any]


def tool(parameters: Any, name: str = "get_weather") -> Tool:
    return Tool(name, {"name": name, "parameters": parameters})


def of(*required: str, **properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


TREE: Schema = {
    **of("tree", tree={"$ref": "#/$defs/node"}),
    "$defs": {
        "node": of(
            "name", name={"type": "string"}, children={"type": "array", "items": {"$ref": "#/$defs/node"}}
        )
    },
}
NASTY = [
    "it's",
    'say "hi"',
    "both ' and \"",
    "back\\slash",
    "北京",
    "😀",
    "line\nbreak",
    "\x00\x7f\u2028",
    "#//",
    "",
]
BY_HAND: dict[str, Schema] = {
    "nothing": {},
    "no properties": {"type": "object", "properties": {}},
    "all kinds": of(
        "s",
        "i",
        s={"type": "string"},
        i={"type": "integer"},
        n={"type": "number"},
        b={"type": "boolean"},
        z={"type": "null"},
    ),
    "optional only": of(a={"type": "boolean"}, b={"type": "boolean"}, c={"type": "boolean"}),
    "required last": of("c", a={"type": "boolean"}, b={"type": "boolean"}, c={"type": "boolean"}),
    "nasty names": of(
        "from", **{"from": {"type": "string"}, "max-results": {"type": "integer"}, "it's": {}, "": {}}
    ),
    "chinese name": of("城市", 城市={"type": "string"}),
    "normalized name": of("ﬁ", ﬁ={"type": "integer"}),
    "nasty enum": of("e", e={"enum": [*NASTY, 1, 2.5, True, None, [1, "a'b"], {"it's": [None]}]}),
    "typed enum": of("e", e={"type": "string", "enum": ["a", 1, None]}),
    "const": of("c", c={"const": "it's"}),
    "lengths": of(
        "a", "b", a={"type": "string", "minLength": 3, "maxLength": 5}, b={"type": "string", "minLength": 2}
    ),
    "long": of("a", a={"type": "string", "minLength": 80, "maxLength": 90}),
    "empty string": of("a", a={"type": "string", "maxLength": 0}),
    "integers": of(
        "a",
        "b",
        "c",
        a={"type": "integer", "minimum": -12, "maximum": 345},
        b={"type": "integer", "exclusiveMinimum": 0},
        c={"type": "integer", "maximum": -7.5},
    ),
    "numbers": of(
        "a",
        "b",
        "c",
        a={"type": "number", "minimum": 0.15, "maximum": 0.2},
        b={"type": "number", "exclusiveMaximum": 100, "exclusiveMinimum": -0.5},
        c={"type": "number", "minimum": 1e-9},
    ),
    "arrays": of(
        "a",
        "b",
        "c",
        a={"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        b={"type": "array", "maxItems": 1},
        c={"items": {"enum": ["x"]}},
    ),
    "tuples": of(
        "a",
        "b",
        "c",
        a={"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        b={
            "type": "array",
            "prefixItems": [{"type": "integer"}],
            "items": {"type": "boolean"},
            "minItems": 3,
            "maxItems": 4,
        },
        c={"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 1},
    ),
    "empty array": of("a", a={"type": "array", "items": False}),
    "object": of(
        "o", o={**of("b", a={"type": "integer"}, b={"type": "string"}), "additionalProperties": False}
    ),
    "map": of("o", o={"type": "object", "additionalProperties": {"type": "integer"}}),
    "others": of(
        "o",
        o={
            **of("ab", ab={"type": "integer"}, abc={"type": "null"}, **{"]^-": {"type": "null"}}),
            "additionalProperties": {"type": "string"},
        },
    ),
    "undeclared": of("x", "y", x={"type": "integer"}),
    "free": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "any": of("a", "b", a={}, b=True),
    "choices": of(
        "a",
        "b",
        "c",
        a={"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]},
        b={"type": ["string", "null"]},
        c={"oneOf": [{"const": 1}, {"type": "string"}]},
    ),
    "beside anyOf": of(
        "a",
        a={
            **of(x={"type": "integer"}, y={"type": "integer"}),
            "anyOf": [{"required": ["x"]}, {"required": ["y"]}],
        },
    ),
    "all of": of("a", a={"allOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 9}]}),
    "all of choices": of(
        "a",
        a={
            "allOf": [
                {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                {"oneOf": [{"maximum": 5}, {"minimum": 9}]},
                {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            ]
        },
    ),
    "two references": of("a", a={"$ref": "#/$defs/x", "allOf": [{"$ref": "#/$defs/y"}]})
    | {"$defs": {"x": {"type": "integer", "minimum": 0}, "y": {"maximum": 20}}},
    "either parameter": {
        **of(x={"type": "integer"}, y={"type": "integer"}),
        "anyOf": [{"required": ["x"]}, {"required": ["y"]}],
    },
    "tree": TREE,
    "root by reference": {
        "$ref": "#/definitions/p",
        "definitions": {"p": of("a", a={"$ref": "#/definitions/q~1r"}), "q/r": {"type": "null"}},
    },
    "impossible branches": of("a", a={"anyOf": [False, {"type": "integer"}]}, b=False),
    "unenforced": of("a", a={"type": "string", "format": "date", "description": "when"}),
}


@cache
def compiler() -> Any:
    info = xgrammar.TokenizerInfo([*VOCABULARY, b"</s>"], stop_token_ids=[END])
    return xgrammar.GrammarCompiler(info, cache_enabled=False)


def matcher(tools: list[Tool], *, with_header: bool = True) -> Any:
    return xgrammar.GrammarMatcher(compiler().compile_grammar(call_grammar(tools, with_header=with_header)))


def allowed(of: Any) -> list[int]:
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    of.fill_next_token_bitmask(mask, 0)
    words = [int(word) & 0xFFFFFFFF for word in mask[0]]
    return [token for token in range(END + 1) if words[token // 32] >> token % 32 & 1]


def random_text(of: Any, model: random.Random, closers: list[int] = CLOSERS) -> str:
    """What a random model writes that gets ever more eager to end."""
    written = b""
    for step in range(3000):
        tokens = allowed(of)
        assert tokens
        closing = [token for token in closers if token in tokens]
        if END in tokens and (len(tokens) == 1 or model.random() < 0.5):
            token = END
        elif closing and (step > 250 or model.random() < 0.2):
            token = (
                min(closing, key=closers.index)
                if step > 400 and model.random() < 0.9
                else model.choice(closing)
            )
        else:
            token = model.choice([token for token in tokens if token != END] or tokens)
        assert of.accept_token(token)
        if token == END:
            return written.decode()
        written += VOCABULARY[token]
    pytest.fail(f"no end in {written[-200:]!r}")


def accepts(tools: list[Tool], text: str, *, with_header: bool = True) -> bool:
    of = matcher(tools, with_header=with_header)
    return all(of.accept_token(byte) for byte in text.encode()) and bool(of.accept_token(END))


def independent_arguments(body: str) -> Any:
    """Read without the gateway's own reader."""
    tree = ast.parse(body, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    assert (tree.func.id, tree.args) == ("tool_call", [])
    if any(given.arg is None for given in tree.keywords):
        (only,) = tree.keywords
        return ast.literal_eval(only.value)
    return {given.arg: ast.literal_eval(given.value) for given in tree.keywords}


def check(text: str, parameters: Mapping[str, Any], header: str = " get_weather\n") -> None:
    start, end = f"{header} ```python\n", "\n```"
    assert text.startswith(start)
    assert text.endswith(end)
    body = text.removeprefix(start).removesuffix(end)
    arguments = independent_arguments(body)
    assert read_call(body) == arguments
    as_json = json.loads(json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode())
    jsonschema.validate(as_json, parameters, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("parameters", BY_HAND.values(), ids=BY_HAND)
def test_a_random_model_writes_a_valid_call(parameters: Schema) -> None:
    of = matcher([tool(parameters)])
    for seed in range(12):
        of.reset()
        check(random_text(of, random.Random(seed)), parameters)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.sampled_from([0.5, -1.25, 1e-07, 3.0, 1e22, 0.1])
)
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(NASTY)
values = st.recursive(
    scalars | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["a", "b", "city", "class", "max-results", "it's", "城市", "_", "ab", "None"])


@st.composite
def string_schemas(draw: st.DrawFn) -> Schema:
    least = draw(st.integers(0, 3))
    return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 4))}


@st.composite
def number_schemas(draw: st.DrawFn) -> Schema:
    bounds = sorted(
        draw(st.lists(st.integers(-2000, 2000) | st.floats(-50, 50, width=16), min_size=2, max_size=2))
    )
    schema: Schema = {"type": draw(st.sampled_from(["integer", "number"]))}
    # One integer fits at least.
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = bounds[0] - 1
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = bounds[1] + 1
    return schema


@st.composite
def object_schemas(draw: st.DrawFn, inner: st.SearchStrategy[Schema], nested: bool = True) -> Schema:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(list(properties)), unique=True)) if properties else []
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.booleans() | inner) if nested else False
    return schema


@st.composite
def array_schemas(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    least = draw(st.integers(0, 2))
    schema: Schema = {"type": "array", "items": draw(inner), "minItems": least}
    if draw(st.booleans()):
        schema["maxItems"] = least + draw(st.integers(0, 2))
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    return schema


SIMPLE: list[Schema] = [{}, *({"type": one} for one in ("boolean", "null", "string", ["integer", "null"]))]
leaves: st.SearchStrategy[Schema] = (
    st.sampled_from(SIMPLE)
    | string_schemas()
    | number_schemas()
    | st.builds(lambda found: {"enum": found}, st.lists(values, min_size=1, max_size=4))
)
schemas: st.SearchStrategy[Schema] = st.recursive(
    leaves,
    lambda inner: (
        object_schemas(inner)
        | array_schemas(inner)
        | st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=6,
)
parameters_of_tools = object_schemas(schemas, nested=False)


@given(parameters_of_tools, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_random_model_writes_a_valid_call_for_any_schema(parameters: Schema, seed: int) -> None:
    of = matcher([tool(parameters)])
    for more in range(2):
        of.reset()
        check(random_text(of, random.Random(seed + more)), parameters)


def instance(schema: Schema, model: random.Random) -> Any:
    """A value that fits a schema which the strategies above made, but for rounding."""
    if "enum" in schema:
        return model.choice(schema["enum"])
    if "anyOf" in schema:
        return instance(model.choice(schema["anyOf"]), model)
    match schema.get("type", "string"):
        case "object":
            return {
                name: instance(of, model)
                for name, of in schema["properties"].items()
                if name in schema["required"] or model.random() < 0.5
            }
        case "array":
            count = model.randint(schema["minItems"], schema.get("maxItems", schema["minItems"] + 2))
            first = schema.get("prefixItems", [])
            return [
                instance(first[index] if index < len(first) else schema["items"], model)
                for index in range(count)
            ]
        case "string":
            count = model.randint(schema.get("minLength", 0), schema.get("maxLength", 9))
            return "".join(
                model.choice("ab'\"\\\n\t\x00\x7f \u3000\u2028你😀\U000e0001ÿ{}") for _ in range(count)
            )
        case "boolean":
            return model.random() < 0.5
        case "null":
            return None
        case ["integer", "null"]:
            return model.choice([None, 0, -5, 12345678901234567])
    lower: Any = schema.get("minimum", schema.get("exclusiveMinimum", -3000))
    upper: Any = schema.get("maximum", schema.get("exclusiveMaximum", 3000))
    if schema["type"] == "integer":
        return model.randint(math.floor(lower) + 1, math.ceil(upper) - 1)
    return round(model.uniform(lower, upper), 3)


@given(parameters_of_tools, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_what_a_correct_model_writes_is_let_through(parameters: Schema, seed: int) -> None:
    model = random.Random(seed)
    arguments = instance(parameters, model)
    if not jsonschema.Draft202012Validator(parameters).is_valid(arguments):
        return  # Rounded beyond a bound.
    call = write_call(arguments)
    if not all(name.isidentifier() for name in parameters["properties"]) or {"class", "None"} & {
        *parameters["properties"]
    }:
        call = f"```python\ntool_call(**{arguments!r})\n```"
    assert accepts([tool(parameters)], f" get_weather\n {call}"), call


@pytest.mark.parametrize(
    ("parameters", "call"),
    [
        ({}, "tool_call()"),
        (
            of("location", location={"type": "string"}, unit={"enum": ["celsius", "f"]}),
            "tool_call(location='Beijing', unit='celsius')",
        ),
        (of("n", n={"type": "integer"}), "tool_call(n=-9223372036854775808)"),
        (of("n", n={"type": "number"}), "tool_call(n=1.5e-07)"),
        (of("s", s={"type": "string"}), "tool_call(s='北京\\n\\x00\\u3000it\\'s')"),
        (of("s", s={"type": "string"}), 'tool_call(s="it\'s")'),
        (of("s", s={"const": "it's"}), "tool_call(s='it\\'s')"),
        (TREE, "tool_call(tree={'name': 'a', 'children': [{'name': 'b', 'children': []}]})"),
        (
            BY_HAND["nasty names"],
            "tool_call(**{'from': 'x', 'max-results': 3, \"it's\": [None], '': {'a': 1.0}})",
        ),
        (BY_HAND["others"], "tool_call(o={'ab': 1, 'a': 'x', 'abcd': 'y', 'abd': '', ']': '', ']^': ''})"),
        (BY_HAND["free"], "tool_call(**{'x': True, 'y': False})"),
    ],
)
def test_let_through(parameters: Schema, call: str) -> None:
    assert accepts([tool(parameters)], f" get_weather\n ```python\n{call}\n```")


@pytest.mark.parametrize(
    ("parameters", "call"),
    [
        ({}, "tool_call(a=1)"),
        (of("a", "b", a={"type": "integer"}, b={"type": "integer"}), "tool_call(a=1)"),
        (of("a", "b", a={"type": "integer"}, b={"type": "integer"}), "tool_call(b=1, a=1)"),
        (of("a", a={"type": "integer"}), "tool_call(a=01)"),
        (of("a", a={"type": "integer"}), "tool_call(a=1.0)"),
        (of("a", a={"type": "integer"}), "tool_call( a=1)"),
        (of("a", a={"type": "string"}), "tool_call(a='\n')"),
        (of("a", a={"type": "string"}), "tool_call(a='\u2028')"),
        (of("a", a={"type": "string"}), "tool_call(a='\\ud83d')"),
        (of("a", a={"type": "string"}), "tool_call(a='\\q')"),
        (of("a", a={"type": "string", "maxLength": 1}), "tool_call(a='ab')"),
        (of("a", a={"enum": ["x", "y"]}), "tool_call(a='z')"),
        (BY_HAND["others"], "tool_call(o={'ab': 1, 'abc': 'y'})"),
    ],
)
def test_not_let_through(parameters: Schema, call: str) -> None:
    assert not accepts([tool(parameters)], f" get_weather\n ```python\n{call}\n```")


def test_a_branch_that_is_the_whole_adds_nothing() -> None:
    whole = {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "integer"}]}
    parameters = of("a", a={"$ref": "#/$defs/a"}) | {"$defs": {"a": whole}}
    assert accepts([tool(parameters)], " get_weather\n ```python\ntool_call(a=1)\n```")


def test_what_mentions_an_impossible_schema_is_made_again_without_it() -> None:
    impossible = of("next", "z", next={"$ref": "#/$defs/b"}, z=False)
    branches = {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "integer"}]}
    parameters = of("b", a={"$ref": "#/$defs/a"}, b={"$ref": "#/$defs/b"})
    parameters["$defs"] = {"a": impossible, "b": branches}
    assert accepts([tool(parameters)], " get_weather\n ```python\ntool_call(b=1)\n```")


@pytest.mark.parametrize("written", ["None", "'x'"])
def test_nullable(written: str) -> None:
    parameters = of(
        "a",
        "b",
        a={"type": "string", "nullable": True},
        b={"type": "string", "enum": ["x"], "nullable": True},
    )
    text = f" get_weather\n ```python\ntool_call(a={written}, b={written})\n```"
    assert accepts([tool(parameters)], text)


def test_without_the_header() -> None:
    parameters = of("a", a={"type": "boolean"})
    assert accepts([tool(parameters)], " ```python\ntool_call(a=True)\n```", with_header=False)
    assert not accepts([tool(parameters)], "```python\ntool_call(a=True)\n```", with_header=False)
    text = random_text(matcher([tool(parameters)], with_header=False), random.Random(0))
    check(text, parameters, header="")


def test_the_model_chooses_among_tools() -> None:
    two = [tool(of("a", a={"type": "boolean"}), "get"), tool(of("b", b={"type": "null"}), "get_b")]
    assert accepts(two, " get\n ```python\ntool_call(a=True)\n```")
    assert accepts(two, " get_b\n ```python\ntool_call(b=None)\n```")
    assert not accepts(two, " get\n ```python\ntool_call(b=None)\n```")
    assert not accepts(two, "get\n ```python\ntool_call(a=True)\n```")


CODE = ["", "print('你好')", "\n\nx = 1\n", "a = `b`\n `` ```\n``", "\tindented = '''```'''"]


@pytest.mark.parametrize("code", CODE)
def test_the_interpreter_takes_any_code(code: str) -> None:
    assert accepts([tool({}, "interpreter")], f" interpreter\n {write_code(code)}")


@pytest.mark.parametrize("code", ["```", "x\n```\ny", "x\r\ny", "\x00"])
def test_the_interpreter_ends_with_its_fence(code: str) -> None:
    assert not accepts([tool({}, "interpreter")], f" interpreter\n {write_code(code)}")


def test_a_random_interpreter_ends_with_its_fence() -> None:
    of = matcher([tool({}, "interpreter")], with_header=False)
    for seed in range(12):
        of.reset()
        text = random_text(of, random.Random(seed), [VOCABULARY.index(b"\n```")])
        assert text.count("\n```") == 1
        assert text == f" {write_code(read_code(text))}" or not read_code(text).strip()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (of("a", a=False), "No arguments fit"),
        (of("a", a={"$ref": "#/$defs/a"}) | {"$defs": {"a": {"$ref": "#/$defs/a"}}}, "No arguments fit"),
        ({"type": "string"}, "No arguments fit"),
        (of("a", a={"type": "integer", "minimum": 2, "maximum": 1}), "No arguments fit"),
        (of("a", a={"type": "array", "items": False, "minItems": 1}), "No arguments fit"),
        ({"$ref": "#"}, "refers to itself"),
        (of(a={"$ref": "#/$defs/none"}), "points to nothing"),
        (of(a={"$ref": "https://example.com/a"}), "does not point into the schema"),
        (of(a={"type": "str"}), "'str' is no type"),
        (of(a={"type": "string", "minLength": "1"}), "minLength must be a number"),
        (of(a={"type": "string", "maxLength": -1}), "must not be negative"),
        (of(a=1), "1 is no schema"),
        (of(a={"enum": "ab"}), "enum must be a list"),
        (of(a={"enum": [math.nan]}), "not JSON compliant"),
        ({"type": "object", "properties": []}, "properties must be an object"),
        ({"type": "object", "required": True}, "required must be a list"),
        (of(**{f"a{n}": {} for n in range(3000)}), "more than 5000 rules"),
        (of(a={"enum": ["x" * 100 + str(n) for n in range(1000)]}), "a rule of more than 50000"),
        (of(**{"a" * 40_000 + str(n): {} for n in range(10)}), "more than 300000 characters"),
    ],
)
def test_a_schema_that_can_not_be_enforced_is_refused(parameters: Schema, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call_grammar([tool(parameters)], with_header=True)


def test_a_schema_nested_too_deeply_is_refused() -> None:
    schema: Schema = {"type": "null"}
    for _ in range(2000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="nested"):
        call_grammar([tool(of(a=schema))], with_header=True)


def test_combinations_that_multiply_are_refused() -> None:
    pairs = [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(40)]
    with pytest.raises(ValueError, match="more than"):
        call_grammar([tool(of(a={"type": "object", "allOf": pairs}))], with_header=True)
    with pytest.raises(ValueError, match="alternatives"):
        call_grammar([tool({"type": "object", "allOf": pairs})], with_header=True)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\ud800"])
def test_a_name_that_is_no_plain_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a tool's name"):
        call_grammar([tool({}, name)], with_header=True)


def test_there_has_to_be_a_tool() -> None:
    with pytest.raises(ValueError, match="no tools"):
        call_grammar([], with_header=True)


def test_large_schemas_stay_small() -> None:
    same = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 7}}}
    few = call_grammar([tool(of(x=same))], with_header=True)
    many = call_grammar([tool(of(**{f"x{n}": same for n in range(100)}))], with_header=True)
    assert len(many.splitlines()) < len(few.splitlines()) + 2 * 100 + 1
