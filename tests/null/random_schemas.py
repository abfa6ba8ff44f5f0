"""JSON Schemas made up at random of the keywords that forms enforce; all can be fulfilled."""

import random
import string
from typing import Any

WORDS = ("a", "b", "name", "x y", 'q"', "é", "id")
PATTERNS = ("^[a-z]+$", "a", "^(ab|cd)*$", "[0-9]{2}", "^x.?$")
FORMATS = ("date", "uuid", "ipv4", "email", "time")


def random_schema(dice: random.Random, depth: int = 3) -> Any:
    """Return a schema of at most `depth` levels."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "types"]
    if depth > 1:
        kinds += ["object", "object", "array", "array", "tuple", "anyOf", "allOf", "ref"]
    return _MADE[dice.choice(kinds)](dice, depth - 1)


def _string(dice: random.Random, depth: int) -> Any:
    schema: dict[str, Any] = {"type": "string"}
    kind = dice.randrange(5)
    if kind == 0:
        schema["pattern"] = dice.choice(PATTERNS)
    elif kind == 1:
        schema["format"] = dice.choice(FORMATS)
    else:
        schema["minLength"] = dice.randrange(3)
        schema["maxLength"] = schema["minLength"] + dice.randrange(6)
    return schema


def _number(dice: random.Random, depth: int) -> Any:
    schema: dict[str, Any] = {"type": dice.choice(["integer", "number"])}
    low = dice.randrange(-50, 50)
    if dice.random() < 0.5:
        schema[dice.choice(["minimum", "exclusiveMinimum"])] = low
    if dice.random() < 0.5:
        schema[dice.choice(["maximum", "exclusiveMaximum"])] = low + dice.randrange(2, 200)
    if dice.random() < 0.2:
        return {"type": "integer", "multipleOf": dice.choice([2, 5, 7])}
    return schema


def _object(dice: random.Random, depth: int) -> Any:
    names = dice.sample(WORDS, dice.randrange(4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(dice, depth) for name in names},
        "required": [name for name in names if dice.random() < 0.6],
    }
    others = dice.randrange(4)
    if others < 2:
        schema["additionalProperties"] = False
    elif others == 2:
        schema["additionalProperties"] = random_schema(dice, 1)
    else:
        schema["patternProperties"] = {"^p_[a-z]+$": random_schema(dice, 1)}
        schema["additionalProperties"] = False
    if set(schema["required"]) == set(names) and others == 2:
        schema["maxProperties"] = len(names) + dice.randrange(3)
    return schema


def _array(dice: random.Random, depth: int) -> Any:
    low = dice.randrange(3)
    items = random_schema(dice, depth)
    return {"type": "array", "items": items, "minItems": low, "maxItems": low + dice.randrange(3)}


def _tuple(dice: random.Random, depth: int) -> Any:
    first = [random_schema(dice, depth) for _ in range(dice.randrange(1, 3))]
    items = dice.choice([False, {"type": "boolean"}])
    return {"type": "array", "prefixItems": first, "items": items, "maxItems": len(first) + 2}


def _value(dice: random.Random) -> Any:
    texts = ["", "a", 'b"\\', "日本", "</tool_call>", "\n"]
    return dice.choice([None, True, 7, -2, 0.5, {"a": [1]}, [], *texts])


def _enum(dice: random.Random, depth: int) -> Any:
    return {"enum": [_value(dice) for _ in range(dice.randrange(1, 5))]}


def _const(dice: random.Random, depth: int) -> Any:
    return {"const": _value(dice)}


def _types(dice: random.Random, depth: int) -> Any:
    return {"type": dice.sample(["boolean", "null", "integer"], 2), "title": "some"}


def _any_of(dice: random.Random, depth: int) -> Any:
    return {"anyOf": [random_schema(dice, depth) for _ in range(2)]}


def _all_of(dice: random.Random, depth: int) -> Any:
    low = dice.randrange(10)
    return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 90}]}


def _ref(dice: random.Random, depth: int) -> Any:
    """Return a list of things, linked, of which each is of one kind."""
    name = dice.choice(string.ascii_letters)
    link = {"type": "object", "properties": {"next": {"$ref": "#"}, name: {"type": "null"}}}
    return {**link, "required": [name], "additionalProperties": False}


_MADE = {
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda dice, depth: {"type": "boolean"},
    "null": lambda dice, depth: {"type": "null"},
    "enum": _enum,
    "const": _const,
    "types": _types,
    "object": _object,
    "array": _array,
    "tuple": _tuple,
    "anyOf": _any_of,
    "allOf": _all_of,
    "ref": _ref,
}
