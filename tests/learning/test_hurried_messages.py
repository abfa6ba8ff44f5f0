"""Lessons in messages typed in a hurry: nothing wrong is learned, and most of what is told."""

import pytest

from homebox.learning.reading.rules import Claim, read_message
from tests.learning.hurried_messages import HURRIED


def claims(text: str) -> list[tuple[str | None, str]]:
    return [(item.subject, item.value) for item in read_message(text) if isinstance(item, Claim)]


@pytest.mark.parametrize("text", [text for text, told in HURRIED.items() if not told])
def test_what_tells_nothing_teaches_nothing(text: str) -> None:
    assert claims(text) == []


def test_most_of_what_is_told_is_found() -> None:
    told = {text: parts for text, parts in HURRIED.items() if parts}
    found = [
        text
        for text, parts in told.items()
        if all(any(part in f"{claim}".lower() for claim in claims(text)) for part in parts)
    ]
    assert len(found) >= 0.72 * len(told), sorted(set(told) - set(found))


def test_what_is_not_wanted_says_nothing_of_what_is() -> None:
    assert claims("use celsius not fahrenheit") == [("units", "metric")]
    assert claims("always use fahrenheit, not celsius") == [("units", "imperial")]
