"""Grammars, schemas and tools made to hurt: refused, or enforced within bounds, never a crash.

The bounds are those of the code (sizes, nesting, the fuel of the grammar's engine); time is no part
of these tests, but an unbounded case would never end.
"""

import json
import random
from typing import Any

import pytest

from homebox.errors import RequestError
from homebox.model.guides import JsonSchema, Lark, Regex, Wanted, compiler, guide_for
from homebox.model.guides.vocabulary import vocabulary_of
from tests.null.guide_cases import BY_NAME, tool
from tests.null.guided import babble

HERMES = BY_NAME["hermes"]


def nested(depth: int, key: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {key: schema if key == "items" else [schema]}
    return schema


def bottomless() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    return schema


MANY = {f"k{number}": {"type": "integer"} for number in range(5_000)}
LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
REFUSED_SCHEMAS = {
    "loop": LOOP,
    "itself": {"$ref": "#"},
    "loop by allOf": {"allOf": [{"$ref": "#"}]},
    "nothing there": {"$ref": "#/$defs/none"},
    "remote": {"$ref": "https://example.com/x"},
    "file": {"$ref": "file:///etc/passwd"},
    "no reference": {"$ref": 7},
    "deep": nested(10_000),
    "deep enough": nested(100),
    "deep allOf": nested(10_000, "allOf"),
    "deep const": {"const": json.loads("[" * 900 + "]" * 900)},
    "circular": bottomless(),
    "large": {"enum": ["x" * 100 for _ in range(100_000)]},
    "many members": {"type": "object", "properties": MANY},
    "many choices": {"enum": list(range(20_000))},
    "never": {"enum": []},
    "contradiction": {"type": "integer", "minimum": 2, "maximum": 1},
    "not JSON": {"const": {1, 2}},
    "not a number": {"minimum": float("nan")},
    "odd type": {"type": "integr"},
    "odd types": {"type": 7},
    "odd properties": {"type": "object", "properties": [1]},
    "odd required": {"type": "object", "required": "a"},
    "no schema": {"items": 7},
    "negative": {"type": "string", "minLength": -1},
    "look-ahead": {"type": "string", "pattern": "(?=a)a"},
    "back reference": {"type": "string", "pattern": r"(a)\1"},
    "half a pattern": {"type": "string", "pattern": "("},
    "options": {"x-guidance": {"lenient": True}, "not": {}},
}
REFUSED_REGEXES = {
    "deep": "(" * 10_000 + "a" + ")" * 10_000,
    "long": "a" * 1_000_000,
    "look-behind": "(?<=a)b",
    "back reference": r"(a)\1",
    "half": "(a",
    "never": r"[^\s\S]",
    "huge count": "a{1,99999999999}",
}
REFUSED_GRAMMARS = {
    "left recursion only": "start: start",
    "left recursion, two": 'start: a\na: b "x"\nb: a',
    "no start": 'begin: "a"',
    "undefined": "start: nothing",
    "ten megabytes": "start: " + '"a" ' * 2_500_000,
    "deep": "start: " + "(" * 10_000 + '"a"' + ")" * 10_000,
    "a token by id": "start: <[300]>",
    "a token by name": "start: <tool_call>",
    "the end by name": "start: <|end|>",
    "options": 'start: %json {"x-guidance": {"lenient": true}, "not": {}}',
    "keyword": 'start: %json {"not": {}}',
    "rubbish": "\x00\xff{{{",
    "empty": "",
}
ENDURED: dict[str, Any] = {
    "nested stars": Regex("((((a*)*)*)*)*b"),
    "exponential": Regex("(a|aa)+b"),
    "many states": Regex("(a|b)*a(a|b){18}"),
    "large counts": Regex("(a{1,1000}){1,1000}"),
    "long string": JsonSchema({"type": "string", "minLength": 100_000_000}),
    "long array": JsonSchema({"type": "array", "minItems": 1_000_000_000}),
    "ambiguous": Lark("start: (a | b)*\na: /x+/\nb: /[xy]+/"),
    "left recursion": Lark('start: start "a" | "b"'),
    "right recursion": Lark('start: "a" start | "b"'),
    "hidden recursion": Lark('start: e start "a" | "b"\ne: | "c"'),
    "tree": JsonSchema(
        {
            "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
            "$ref": "#/$defs/n",
        }
    ),
    "pattern": JsonSchema({"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}),
}


def refused(form: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        guide_for(HERMES.tokenizer, HERMES.stop_ids, Wanted(form=form))
    assert caught.value.status == 400 and len(str(caught.value)) < 1_000
    return caught.value


@pytest.mark.parametrize("name", REFUSED_SCHEMAS)
def test_schemas_that_are_refused(name: str) -> None:
    assert refused(JsonSchema(REFUSED_SCHEMAS[name])).param == "response_format.json_schema.schema"


@pytest.mark.parametrize("name", REFUSED_REGEXES)
def test_regular_expressions_that_are_refused(name: str) -> None:
    assert refused(Regex(REFUSED_REGEXES[name])).param == "response_format.regex"


@pytest.mark.parametrize("name", REFUSED_GRAMMARS)
def test_grammars_that_are_refused(name: str) -> None:
    assert refused(Lark(REFUSED_GRAMMARS[name])).param == "response_format.lark"


@pytest.mark.parametrize("name", ENDURED)
def test_what_is_costly_is_endured_or_given_up(name: str) -> None:
    """An answer either goes on under the grammar, or ends with a client's error."""
    try:
        guide = guide_for(HERMES.tokenizer, HERMES.stop_ids, Wanted(form=ENDURED[name]))
        assert guide is not None
        babble(guide, HERMES.tokenizer, HERMES.stop_ids, random.Random(1), most=120)
    except RequestError as error:
        assert error.status == 400 and error.param is not None


@pytest.mark.parametrize("name", [name for name in REFUSED_SCHEMAS if name != "not JSON"])
def test_tools_with_such_schemas_are_relaxed_or_refused(name: str) -> None:
    tools = [tool("t", {"a": REFUSED_SCHEMAS[name]}, "a")]
    try:
        guide = guide_for(
            HERMES.tokenizer, HERMES.stop_ids, Wanted(tools=tools, tool_choice="required")
        )
        assert guide is not None
        babble(guide, HERMES.tokenizer, HERMES.stop_ids, random.Random(1), most=120)
    except RequestError as error:
        assert error.status == 400 and error.param is not None and error.param.startswith("tools")


def test_what_was_compiled_is_kept_within_bounds() -> None:
    for number in range(3 * compiler.KEPT):
        guide_for(HERMES.tokenizer, HERMES.stop_ids, Wanted(form=Regex(f"a{{{number}}}b")))
    kept = vocabulary_of(HERMES.tokenizer, HERMES.stop_ids).compiled
    assert 0 < len(kept) <= compiler.KEPT


def test_two_answers_share_no_state() -> None:
    want = Wanted(form=Regex("[ab]x"))
    one, two = (guide_for(HERMES.tokenizer, HERMES.stop_ids, want) for _ in range(2))
    assert one is not None and two is not None
    one.take(ord("a"))
    assert list(one.ahead()) == [ord("x")] and not two.ahead()
