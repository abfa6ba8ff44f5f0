"""JSON-Schema-Test-Suite (2020-12) against forms: each schema is refused, or enforced exactly.

Instances are fed as a form writes them: on one line, with a blank behind commas and colons, in any
order of members (a form has one order: that of `properties`, other members behind them).
"""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from homebox.errors import RequestError
from homebox.model.generation.guide import Guide
from homebox.model.guides import JsonSchema, Wanted, guide_for
from homebox.model.guides.schemas import REFUSED as SCHEMA_KEYWORDS
from tests.null.guided import Letters, babble
from tests.null.random_schemas import random_schema

LETTERS = Letters()
# The suite's files for what forms enforce.
ENFORCED = {
    *("additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum"),
    *("exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum"),
    *("minItems", "minLength", "minProperties", "minimum", "multipleOf", "oneOf", "pattern"),
    *("patternProperties", "prefixItems", "properties", "ref", "required", "type"),
}


def guide_of(schema: Any) -> Guide:
    guide = guide_for(LETTERS, LETTERS.stop_ids, Wanted(form=JsonSchema(schema)))
    assert guide is not None
    return guide


def orders(value: Any) -> Iterator[Any]:
    """Yield a value with the members of its objects in every order."""
    if isinstance(value, list):
        yield from (
            list(each) for each in itertools.product(*(list(orders(each)) for each in value))
        )
    elif isinstance(value, dict):
        for keys in itertools.permutations(value):
            for values in itertools.product(*(list(orders(value[key])) for key in keys)):
                yield dict(zip(keys, values, strict=True))
    else:
        yield value


def accepts(schema: Any, text: str) -> bool:
    """Tell whether an answer can be this text."""
    guide = guide_of(schema)
    for token in (*text.encode(), LETTERS.stop_ids[0]):
        mask = guide.mask()
        assert mask is not None
        if not int(mask[token // 32]) >> (token % 32) & 1:
            return False
        if token not in LETTERS.stop_ids:
            guide.take(token)
    return True


def produces(schema: Any, value: Any) -> bool:
    return any(
        accepts(schema, json.dumps(each, ensure_ascii=False))
        for each in itertools.islice(orders(value), 150)
    )


def suite(shared: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    folder = shared / "data" / "schema" / "json-schema-test-suite-draft2020-12"
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            yield path.stem, group


def enforced(schema: Any) -> bool:
    """Tell whether a schema is enforced; if not, it must have been refused by name."""
    try:
        guide_of(schema)
    except RequestError as error:
        assert error.param == "response_format.json_schema.schema" and error.status == 400
        return False
    return True


def deliberate(file: str, test: dict[str, Any]) -> bool:
    """Tell whether a form does not write an instance on purpose, though the schema allows it.

    A whole number is never written as 1.0, and formats are enforced though they may be ignored.
    """
    whole = ".0" in json.dumps(test["data"])
    return file == "format" or (file in ("const", "enum", "type") and whole)


def test_every_schema_is_refused_or_enforced(shared: Path) -> None:
    told = dict.fromkeys(("enforced", "valid", "invalid"), 0)
    files = set()
    for file, group in suite(shared):
        if not enforced(group["schema"]):
            continue
        files.add(file)
        told["enforced"] += 1
        for test in group["tests"]:
            made = produces(group["schema"], test["data"])
            if test["valid"]:
                told["valid"] += 1
                assert made or deliberate(file, test), (file, group["description"], test)
            else:
                told["invalid"] += 1
                assert not made, (file, group["description"], test)
    assert told["enforced"] > 170 and told["valid"] > 300 and told["invalid"] > 200
    assert files >= ENFORCED


def test_the_suite_would_notice(shared: Path) -> None:
    """The control: with a schema that allows everything, invalid instances come through."""
    groups = [group for file, group in suite(shared) if file == "maximum"]
    wrong = [test["data"] for group in groups for test in group["tests"] if not test["valid"]]
    assert wrong and all(produces({}, value) for value in wrong)


@pytest.mark.parametrize("keyword", sorted(SCHEMA_KEYWORDS))
def test_a_keyword_that_cannot_be_enforced_is_named(keyword: str) -> None:
    for schema in ({keyword: {}}, {"properties": {"a": {"items": {keyword: True}}}}):
        with pytest.raises(RequestError) as caught:
            guide_of(schema)
        assert keyword in str(caught.value) and caught.value.status == 400


def test_formats_are_known_or_refused() -> None:
    for name in ("unknown", "byte", "regex", "idn-email", 7):
        with pytest.raises(RequestError, match="format"):
            guide_of({"type": "string", "format": name})
    assert accepts({"type": "integer", "format": "int32"}, "1")


def test_notes_are_no_keywords() -> None:
    notes = {"title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c"}
    notes |= {"deprecated": True, "readOnly": True, "writeOnly": True, "x-more": {"not": {}}}
    assert accepts({**notes, "type": "integer"}, "1")
    assert not accepts({**notes, "type": "integer"}, '"a"')


def test_parameters_named_as_keywords_are_parameters() -> None:
    schema = {"type": "object", "properties": {"not": {"type": "integer"}, "if": {}}}
    assert produces(schema, {"not": 1, "if": 2}) and not produces(schema, {"not": "a"})


def test_no_blanks_for_ever() -> None:
    for text in ('{ "a": 1}', '{"a":  1}', '{"a": 1 }', "\n{}", "[1,  2]", "[\n1]"):
        assert not accepts({}, text)


def test_no_key_twice_no_endless_number_no_bottomless_nesting() -> None:
    assert accepts({}, '{"a": 1, "b": {"a": 1}}')
    for text in ('{"a": 1, "a": 2}', '{"x": {"b": 1}, "y": 1, "x": 2}', "1" * 40, "1e400"):
        assert not accepts({}, text), text
    assert accepts({}, "[" * 20 + "]" * 20) and not accepts({}, "[" * 60 + "]" * 60)


def test_a_thousand_random_schemas_are_kept_to() -> None:
    """Said by a sampler that knows nothing; the built-in model has its own test."""
    ended = 0
    for seed in range(1_000):
        dice = random.Random(seed)
        schema = random_schema(dice)
        said = babble(guide_of(schema), LETTERS, LETTERS.stop_ids, dice, most=300, hurry=30)
        if said.ended:
            ended += 1
            value = json.loads(LETTERS.decode(said.ids))
            assert jsonschema_rs.is_valid(schema, value), (schema, value)
    assert ended > 970  # the others did not find the way out of a text or a list


def test_without_masks_random_schemas_are_not_kept_to() -> None:
    """The control: any token at any time is no JSON."""
    dice = random.Random(1)
    text = LETTERS.decode([dice.randrange(LETTERS.size) for _ in range(30)])
    with pytest.raises(ValueError):
        json.loads(text)
