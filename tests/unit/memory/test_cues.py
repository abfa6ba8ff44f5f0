"""The one index of all tables finds what reading each row alone finds, in the order of rows."""

import random
import re
from pathlib import Path

import pytest

from homebox.memory.secrets.cues import Cue, Index, at_sign, compiled, cue, one
from homebox.memory.secrets.finding import INDEX, find_secrets
from homebox.memory.secrets.named import NAMED
from homebox.memory.secrets.signs import each_alone
from homebox.memory.secrets.view import Found, View

FOLDER = Path(__file__).parent


def alone(rows: tuple[Cue, ...], text: str) -> set[Found]:
    """Read each row where each of its signs stands, without an index."""
    found = set()
    for row in rows:
        for place in {each for sign in row.signs for each in each_alone(text.lower(), sign)}:
            for pattern in row.patterns:
                match = row.seek(compiled(pattern), text, place)
                spans = [*row.check(View(text), match)] if match else []
                if match and spans:
                    kinds = [row.naming(text, match, each) for each in spans if row.naming]
                    found |= {
                        Found(*span, kind)
                        for span, kind in zip(spans, kinds or [row.kind] * len(spans), strict=True)
                    }
                    break
    return found


def test_the_index_finds_what_each_row_finds() -> None:
    lines = (FOLDER / "hurried_secrets.txt").read_text(encoding="utf-8").split("\n")
    draw = random.Random(4)
    number = 0
    for line in draw.sample(lines, 120):
        text = line.replace("⟦", "").replace("⟧", "").replace("¦", "")
        found = Index(NAMED).found(View(text))
        assert {*found} == alone(NAMED, text)
        number += len(found)
    assert number > 20


@pytest.mark.parametrize("text", ["a wifi key and a key", "passwifi key", "key", "", "wifi ke"])
def test_a_sign_within_another_is_found_once(text: str) -> None:
    rows = (
        cue("a", "key", r"(?P<value>key)"),
        cue("b", "wifi key|i k", r"(?P<value>wifi key|i k)"),
    )
    index = Index(rows)
    assert set(index.signs) == {"key", "i k"}
    assert {*index.found(View(text))} == alone(rows, text)


def test_the_first_row_and_the_first_pattern_count() -> None:
    rows = (
        cue("late", "z", r"z(?P<value>\d)", seek=at_sign),
        Cue("early", ("a",), (r"a(?P<value>\D)z", r"a\d(?P<value>z)"), one(_value), at_sign),
    )
    found = Index(rows).found(View("a1z2"))
    assert found == [Found(3, 4, "late"), Found(2, 3, "early")]


def _value(text: str, match: re.Match[str]) -> tuple[int, int]:
    return match.span("value")


def test_the_tables_name_signs_in_lower_case() -> None:
    assert all(sign == sign.lower() and len(sign) > 0 for sign in INDEX.signs)
    assert find_secrets("password: Tr0ut&Salmon9") == [Found(10, 23, "password")]
