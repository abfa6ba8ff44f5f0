"""What the models' own templates write of calls is what guides let models write, blank by blank."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from homebox.model.answers import CallArguments
from homebox.model.guides import Wanted, guide_for
from tests.null.answer_cases import TOOLS
from tests.null.guided import Letters, allowed, babble, events_of
from tests.null.test_answers_of_templates import cases, message, turn

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": 'Tromsø "x" 🌧', "days": 3}),
    ("run", {"code": 'if a < b:\n\tprint("é")', "options": {"deep": [{}, [1.5, None]]}}),
]
# template -> the mark that its calls begin with, how many a turn may have, and what ends it
FAMILIES = {
    "meta-llama/Llama-3.1-8B-Instruct": ("{", 1, "<|eot_id|>"),
    "Qwen/Qwen2.5-7B-Instruct": ("<tool_call>", 2, "<|im_end|>"),
    "Qwen/Qwen3-0.6B": ("<tool_call>", 2, "<|im_end|>"),
    "CohereLabs/c4ai-command-a-03-2025": ("<|START_ACTION|>", 2, "<|END_OF_TURN_TOKEN|>"),
    "ai21labs/AI21-Jamba-Large-1.6": ("<tool_calls>", 2, "<|eom|>"),
    "moonshotai/Kimi-K2-Thinking": ("<|tool_calls_section_begin|>", 2, "<|im_end|>"),
    "zai-org/GLM-5.1": ("<tool_call>", 2, None),
}
# Letters that JSON writes in one way only.
PLAIN = frozenset(b' !"#$&()*+,-.:;=?@[]^_`{|}~' + b"abcdfghijklmnopqrstuvwxyz0123456789")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rendered_call_is_allowed(name: str, shared: Path) -> None:
    case = cases(shared)[name]
    mark, most, end = FAMILIES[name]
    _, answer = turn(case, end, message(CALLS[:most], name))
    tokenizer = Letters((), case["template"])
    want = Wanted(tools=TOOLS, tool_choice="required")
    guide = guide_for(tokenizer, tokenizer.stop_ids, want)
    assert guide is not None
    text = answer[answer.index(mark) :]
    for place, token in enumerate(text.encode()):
        assert token in allowed(guide, tokenizer.size), text.encode()[:place].decode(
            "utf-8", "replace"
        )
        guide.take(token)
    assert tokenizer.stop_ids[0] in allowed(guide, tokenizer.size)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "Kimi" not in name])
def test_a_call_is_the_same_text_in_the_history(name: str, shared: Path) -> None:
    """What was written under a guide, rendered again, is what was written."""
    case = cases(shared)[name]
    mark, _, end = FAMILIES[name]
    tokenizer = Letters((), case["template"])
    want = Wanted(tools=TOOLS, tool_choice="get_weather", parallel=False)
    compared = 0
    for seed in range(20):
        guide = guide_for(tokenizer, tokenizer.stop_ids, want)
        assert guide is not None
        dice = random.Random(seed)
        said = babble(guide, tokenizer, tokenizer.stop_ids, dice, most=2_000, liked=PLAIN)
        written = tokenizer.decode(said.ids)
        if not said.ended or not re.fullmatch(r"[\n -~]*", written) or "\\" in written:
            continue  # escapes have several spellings
        events = events_of(tokenizer, said.ids, want)
        pieces = "".join(each.text for each in events if isinstance(each, CallArguments))
        arguments = json.loads(pieces)
        _, again = turn(case, end, message([("get_weather", arguments)], name))
        again = again[again.index(mark) :]
        compared += 1
        assert re.sub(r'_id": "\d+"', "", again) == re.sub(r'_id": "\d+"', "", written)
    assert compared
