"""Guides on vocabularies of every kind: what is enforced is the text that a client gets."""

import json
import random
import threading
from collections.abc import Callable

import jsonschema_rs
import pytest

from homebox.model.answers import CallArguments, CallBegins
from homebox.model.guides import JsonSchema, Regex, Wanted, guide_for
from homebox.model.tokenizer.base import Settings, Tokenizer
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from tests.null.guide_cases import TOOLS
from tests.null.guided import babble, events_of, text_of
from tests.null.random_schemas import random_schema
from tests.unit.tokenizer_files import SPECIALS, byte_level, byte_level_metadata, spaced

PROMPT = "<think>\n\n</think>"  # the thought is over already
TEMPLATE = Settings(template="<tool_call></tool_call><think>")


def of_json(text: str) -> Tokenizer:
    return JsonTokenizer(check_tokenizer(json.loads(text), "x"), "x", TEMPLATE)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": lambda: of_json(byte_level()),
    "spaces, first": lambda: of_json(spaced("first")),
    "spaces, always": lambda: of_json(spaced("always")),
    "spaces, never": lambda: of_json(spaced("never")),
    "GGUF": lambda: tokenizer_of(byte_level_metadata(), "x"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_forms_and_calls(kind: str) -> None:
    tokenizer = KINDS[kind]()
    stop_ids = [tokenizer.special[SPECIALS[2]]]
    for seed in range(30):
        dice = random.Random(seed)
        schema = random_schema(dice)
        guide = guide_for(tokenizer, stop_ids, Wanted(form=JsonSchema(schema), prompt=PROMPT))
        assert guide is not None
        said = babble(guide, tokenizer, stop_ids, dice, hurry=20)
        text = text_of(tokenizer, said.ids)
        assert not said.ended or jsonschema_rs.is_valid(schema, json.loads(text)), (schema, text)
    for pattern in ("fish", " fish", "the (fish|owner)", "<think>", "12é日"):
        guide = guide_for(tokenizer, stop_ids, Wanted(form=Regex(pattern), prompt=PROMPT))
        assert guide is not None
        said = babble(guide, tokenizer, stop_ids, random.Random(1))
        text = text_of(tokenizer, said.ids)
        assert text in (pattern, "the fish", "the owner"), (pattern, text)
        assert not set(said.ids) & set(tokenizer.special.values())
    ended = 0
    for seed in range(5):
        want = Wanted(tools=TOOLS, tool_choice="required", prompt=PROMPT)
        guide = guide_for(tokenizer, stop_ids, want)
        assert guide is not None
        said = babble(guide, tokenizer, stop_ids, random.Random(seed), most=1_500)
        ended += said.ended
        if not said.ended:
            continue
        events = events_of(tokenizer, said.ids, want)
        schemas = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}
        begins = [each for each in events if isinstance(each, CallBegins)]
        assert begins
        for begin in begins:
            pieces = [e for e in events if isinstance(e, CallArguments) and e.index == begin.index]
            arguments = json.loads("".join(each.text for each in pieces))
            assert jsonschema_rs.is_valid(schemas[begin.name], arguments)
    assert ended  # others find no way out of a text


def test_guides_are_made_on_several_threads_at_once() -> None:
    tokenizer = of_json(byte_level())
    stop_ids = [tokenizer.special[SPECIALS[2]]]
    said: list[list[int]] = []

    def one() -> None:
        for _ in range(10):
            guide = guide_for(tokenizer, stop_ids, Wanted(tools=TOOLS, tool_choice="required"))
            assert guide is not None
            said.append(babble(guide, tokenizer, stop_ids, random.Random(5), most=300).ids)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 40 and all(each == said[0] for each in said)
