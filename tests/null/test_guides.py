"""Calls under a guide, said by the worst model there is: always of offered tools, always valid."""

import json
import random
from typing import Any

import jsonschema_rs
import pytest

from homebox.errors import RequestError
from homebox.model.answers import CallArguments, CallBegins, CallEnds, Event, Text, Thought
from homebox.model.guides import JsonObject, JsonSchema, Lark, Regex, Wanted, guide_for
from tests.null.guide_cases import BY_NAME, FAMILIES, TOOLS, Family, tool, wanted
from tests.null.guided import allowed, babble, events_of

SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}
THINKING = BY_NAME["thinking"]
HERMES = BY_NAME["hermes"]


def calls_of(events: list[Event]) -> list[tuple[str, Any]]:
    """Return the complete calls; fails if one is not."""
    found = []
    for begin in (each for each in events if isinstance(each, CallBegins)):
        pieces = [e for e in events if isinstance(e, CallArguments) and e.index == begin.index]
        ends = [e for e in events if isinstance(e, CallEnds) and e.index == begin.index]
        assert [each.complete for each in ends] == [True]
        found.append((begin.name, json.loads("".join(each.text for each in pieces))))
    return found


def said(
    family: Family, want: Wanted, seed: int, begin: str = "", most: int = 3000
) -> tuple[list[Event], str]:
    """Say an answer to its end; return what is read in it, and its text."""
    tokenizer = family.tokenizer
    guide = guide_for(tokenizer, family.stop_ids, want)
    assert guide is not None
    ids = tokenizer.encode_marked(begin)
    answer = babble(guide, tokenizer, family.stop_ids, random.Random(seed), most, ids)
    text = tokenizer.decode(answer.ids, special=True)
    assert answer.ended, text
    return events_of(tokenizer, answer.ids, want), text


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("choice", ["auto", "required", "get_weather"])
def test_calls_are_read_as_calls_that_validate(family: Family, choice: str) -> None:
    for seed in range(4):
        want = wanted(choice, parallel=seed != 0)
        begin = f"ok\n{family.begins}" if choice == "auto" else ""
        if not family.begins.startswith((*family.tokenizer.special, "<", "A", "f", ">")):
            begin = begin.removeprefix("ok\n")  # bare JSON is a call only where an answer begins
        events, text = said(family, want, seed, begin)
        calls = calls_of(events)
        assert calls, text
        assert seed or len(calls) == 1
        for name, arguments in calls:
            assert jsonschema_rs.is_valid(SCHEMAS[name], arguments), text
            assert choice in ("auto", "required", name)


def test_without_a_guide_calls_break() -> None:
    """The control: what the sampler says where nothing holds it."""
    tokenizer = HERMES.tokenizer
    dice = random.Random(1)
    ids = tokenizer.encode_marked("<tool_call>\n{")
    ids += [dice.randrange(tokenizer.size) for _ in range(100)]
    assert not any(isinstance(e, CallBegins) for e in events_of(tokenizer, ids, wanted()))


def test_text_is_free_and_calls_are_not() -> None:
    tokenizer = HERMES.tokenizer
    guide = guide_for(tokenizer, HERMES.stop_ids, wanted())
    assert guide is not None
    for token in tokenizer.encode("Let me see {"):
        assert guide.mask() is None
        guide.take(token)
    guide.take(tokenizer.special["<tool_call>"])
    assert allowed(guide, tokenizer.size) == [ord("\n")]
    assert bytes(guide.ahead()).startswith(b'\n{"name": "')
    call = '\n{"name": "get_time", "arguments": {}}\n'
    for token in tokenizer.encode(call):
        guide.take(token)
    assert allowed(guide, tokenizer.size) == [tokenizer.special["</tool_call>"]]
    guide.take(tokenizer.special["</tool_call>"])
    assert guide.mask() is None


def test_a_mark_in_a_thought_opens_nothing() -> None:
    tokenizer = THINKING.tokenizer
    guide = guide_for(tokenizer, THINKING.stop_ids, wanted(prompt="<think>\n"))
    assert guide is not None
    for token in tokenizer.encode_marked("I could say <tool_call>\n or </think>"):
        assert guide.mask() is None
        guide.take(token)
    for token in tokenizer.encode_marked("<tool_call>"):
        guide.take(token)
    assert allowed(guide, tokenizer.size) == [ord("\n")]


def test_one_call_only_where_calls_must_not_be_parallel() -> None:
    tokenizer = HERMES.tokenizer
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    for parallel in (False, True):
        guide = guide_for(tokenizer, HERMES.stop_ids, wanted(parallel=parallel))
        assert guide is not None
        for token in tokenizer.encode_marked(call):
            guide.take(token)
        assert (guide.mask() is None) == parallel
        if not parallel:
            assert allowed(guide, tokenizer.size) == HERMES.stop_ids


def test_no_call_where_none_is_wanted() -> None:
    tokenizer = HERMES.tokenizer
    guide = guide_for(tokenizer, HERMES.stop_ids, wanted("none"))
    assert guide is not None
    opening = tokenizer.special["<tool_call>"]
    banned = set(range(tokenizer.size)) - set(allowed(guide, tokenizer.size))
    assert banned == {opening, *range(tokenizer.size - 5, tokenizer.size)}  # and padding


def test_a_required_call_may_follow_a_thought() -> None:
    tokenizer = THINKING.tokenizer
    for prompt, begin in (("", "<think>hm</think>\n\n"), ("<think>\n", "hm</think>")):
        events, text = said(THINKING, wanted("required", prompt=prompt), 3, begin)
        assert calls_of(events), text
        assert "".join(each.text for each in events if isinstance(each, Thought)) == "hm"
    guide = guide_for(tokenizer, THINKING.stop_ids, wanted("required", prompt="<think>\n"))
    assert guide is not None
    assert not set(allowed(guide, tokenizer.size)) & set(THINKING.stop_ids)
    guide = guide_for(tokenizer, THINKING.stop_ids, wanted("required"))
    assert guide is not None
    marks = {tokenizer.special[mark] for mark in ("<think>", "<tool_call>")}
    assert set(allowed(guide, tokenizer.size)) == marks


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_thought_ends_with_its_budget(budget: int, begun: bool) -> None:
    tokenizer = THINKING.tokenizer
    want = Wanted(thinking_budget=budget, prompt="<think>\n" if begun else "")
    guide = guide_for(tokenizer, THINKING.stop_ids, want)
    assert guide is not None
    if not begun:
        guide.take(tokenizer.special["<think>"])
    for _ in range(budget):
        assert guide.mask() is None
        guide.take(ord("x"))
    closing = [ord("\n"), tokenizer.special["</think>"], ord("\n"), ord("\n")]
    assert list(guide.ahead()) == closing
    for token in closing:
        assert allowed(guide, tokenizer.size) == [token]
        guide.take(token)
    assert guide.mask() is None and not guide.ahead()


def test_a_budget_goes_with_a_form_and_with_calls() -> None:
    for want in (
        Wanted(thinking_budget=3, prompt="<think>\n", form=JsonObject()),
        wanted("required", thinking_budget=3, prompt="<think>\n"),
    ):
        events, _ = said(THINKING, want, 5)
        thought = "".join(each.text for each in events if isinstance(each, Thought))
        assert len(thought.encode("utf-8", "replace")) <= 60
        text = "".join(each.text for each in events if isinstance(each, Text))
        assert calls_of(events) if want.tools else isinstance(json.loads(text), dict)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_forms_go_with_every_model(family: Family) -> None:
    for seed, form in enumerate((JsonObject(), Regex("ab?[/x]{2}"), Lark('start: "a" ("/"|"b")+'))):
        want = Wanted(form=form)
        events, raw = said(family, want, seed)
        text = "".join(each.text for each in events if isinstance(each, Text))
        if isinstance(form, JsonObject):
            assert isinstance(json.loads(text), dict), raw
        else:
            assert text.startswith("a"), raw


def test_a_form_or_calls() -> None:
    """With tools and a form, an answer is either."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    kinds = set()
    for seed in range(12):
        events, _ = said(HERMES, wanted(form=JsonSchema(schema)), seed)
        calls = calls_of(events)
        text = "".join(each.text for each in events if isinstance(each, Text))
        kinds.add(bool(calls))
        assert calls or jsonschema_rs.is_valid(schema, json.loads(text))
    assert kinds == {False, True}


def test_nothing_to_enforce_is_no_guide() -> None:
    assert guide_for(HERMES.tokenizer, HERMES.stop_ids, Wanted()) is None


def test_padding_is_never_allowed() -> None:
    tokenizer = HERMES.tokenizer
    size = tokenizer.size + 100
    for want in (wanted("none"), wanted("required"), Wanted(form=Regex(".*"))):
        guide = guide_for(tokenizer, HERMES.stop_ids, want, size)
        assert guide is not None
        mask = guide.mask()
        assert mask is not None and mask.dtype == "uint32" and len(mask) == -(-size // 32)
        assert max(allowed(guide, size)) < tokenizer.size - 5


@pytest.mark.parametrize(
    ("want", "param"),
    [
        (Wanted(tool_choice="required"), "tool_choice"),
        (wanted("fly"), "tool_choice"),
        (Wanted(tools=[tool("a b", {})]), "tools[0].function.name"),
        (Wanted(tools=[tool("a", {}), tool("a", {})]), "tools[1].function.name"),
        (Wanted(tools=[tool(f"t{n}", {}) for n in range(1000)]), "tools"),
        (Wanted(tools=[{"name": "a", "parameters": 7}]), "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_what_is_no_tool_is_refused(want: Wanted, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        guide_for(HERMES.tokenizer, HERMES.stop_ids, want)
    assert caught.value.param == param


def test_tools_do_without_what_cannot_be_enforced() -> None:
    odd = tool(
        "odd",
        {
            "a": {"type": "string", "format": "no-such-format", "not": {"const": "x"}},
            "b": {"type": "array", "uniqueItems": True, "contains": {"const": 1}},
            "c": {"type": "string", "pattern": "(?=x)x"},
            "d": {"$ref": "https://example.com/schema"},
            "e": {"oneOf": [{"minimum": 1}, {"maximum": 3}]},
            "f": {"type": "integer"},
        },
        "a", "b", "c", "d", "e", "f",
        dependentRequired={"a": ["b"]},
    )  # fmt: skip
    want = Wanted(tools=[odd], tool_choice="required")
    for seed in range(3):
        events, text = said(HERMES, want, seed)
        for name, arguments in calls_of(events):
            assert name == "odd" and set(arguments) == set("abcdef"), text
            assert isinstance(arguments["f"], int) and isinstance(arguments["b"], list)
    strict = {"type": "function", "function": {**odd["function"], "strict": True}}
    with pytest.raises(RequestError) as caught:
        guide_for(HERMES.tokenizer, HERMES.stop_ids, Wanted(tools=[strict]))
    assert caught.value.param == "tools[0].function.parameters"
