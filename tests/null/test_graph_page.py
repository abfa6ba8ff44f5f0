"""The page of a program without running one: groups, escaping, markup."""

import json
import random

import pytest

from homebox.engine.inspection.graph_html import Group, fill, groups, hue, repetition, script_json


def test_layers_become_groups() -> None:
    names = ["embed", *["norm", "qkv", "attend", "mlp"] * 5, "norm", "head"]
    found = groups(names)
    assert [g.title for g in found] == [
        "launch 0",
        *[f"block {i} of 5" for i in range(1, 6)],
        "launches 21 to 22",
    ]
    assert found[1] == Group("block 1 of 5", 1, 5)


def test_both_ways_through_the_layers_are_found() -> None:
    names = ["a", *["b", "c", "d"] * 4, "loss", *["x", "y", "z", "z"] * 4]
    assert [g.title for g in groups(names)].count("block 4 of 4") == 2


@pytest.mark.parametrize("seed", range(20))
def test_groups_cover_every_launch_once(seed: int) -> None:
    dice = random.Random(seed)
    names = [dice.choice("abc") for _ in range(dice.randrange(40))]
    found = groups(names)
    assert [i for g in found for i in range(g.start, g.stop)] == list(range(len(names)))


def test_a_repetition_is_as_long_as_possible_and_its_period_as_short() -> None:
    assert repetition(list("abcabcabcabc")) == (0, 3, 4)
    assert repetition(list("xabcabcab")) == (1, 3, 2)
    assert repetition(list("aabbccdd")) is None
    assert repetition([]) is None


def test_text_cannot_leave_its_script_element() -> None:
    hostile = {"code": "</script><script>alert(1)</script>", "more": "<!-- & \u2028 ]]>"}
    text = script_json(hostile)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == hostile


def test_parts_are_put_in_once() -> None:
    assert fill("{{A}} {{B}}", {"A": "{{B}}", "B": "b"}) == "{{B}} b"


def test_equal_kernels_have_one_colour() -> None:
    assert hue("k123") == hue("k123")
    assert len({hue(f"k{i}") for i in range(50)}) > 30
