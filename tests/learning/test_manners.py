"""Wishes for answers in general, as people write them, and what is no such wish."""

import pytest

from homebox.learning.preferences.catalogue import checkable
from homebox.learning.reading.rules import Claim, read_message
from homebox.memory.lessons import Lesson

WISHES = {
    "Keep your answers short.": ("answer length", "short"),
    "keep answers short pls": ("answer length", "short"),
    "From now on, be brief.": ("answer length", "short"),
    "I prefer short answers.": ("answer length", "short"),
    "I like concise replies": ("answer length", "short"),
    "Please always answer in at most two sentences.": ("answer length", "2 sentences"),
    "Never use more than 50 words.": ("answer length", "50 words"),
    "Your answers should be no longer than 3 sentences.": ("answer length", "3 sentences"),
    "I hate long answers.": ("answer length", "short"),
    "i dont like long answers": ("answer length", "short"),
    "I want detailed explanations.": ("answer length", "long"),
    "Always use bullet points.": ("lists", "bullet points"),
    "I prefer bullet points, by the way.": ("lists", "bullet points"),
    "Please don't use bullet points.": ("lists", "none"),
    "I prefer numbered lists.": ("lists", "numbered"),
    "Always use British spelling.": ("spelling", "British"),
    "I write in American English.": ("spelling", "American"),
    "No emojis please.": ("emojis", "none"),
    "no emojis": ("emojis", "none"),
    "Please stop using emojis!": ("emojis", "none"),
    "Always answer in German.": ("answer language", "German"),
    "Please reply to me only in french from now on": ("answer language", "French"),
    "I use metric units.": ("units", "metric"),
    "I need temperatures in Celsius.": ("units", "metric"),
    "Always give distances in kilometres.": ("units", "metric"),
    "I prefer the 24-hour clock.": ("time format", "24-hour"),
    "Use 24h times from now on.": ("time format", "24-hour"),
    "I prefer ISO dates.": ("date format", "ISO"),
    "Always write in lower case.": ("letter case", "lower case"),
    "End every answer with Over and out.": ("sign-off", "Over and out"),
    "Always end your answers with Over and out.": ("sign-off", "Over and out"),
    "From now on start every reply with Aye.": ("greeting", "Aye"),
    "I use tabs, not spaces.": ("code indentation", "tabs"),
    "I always indent with 4 spaces.": ("code indentation", "4 spaces"),
    "I prefer code examples in Rust.": ("programming language", "Rust"),
    "Always use Python for code.": ("programming language", "Python"),
    "I prefer a formal tone.": ("tone", "formal"),
    "Never use markdown.": ("markdown", "none"),
    "Please don't use exclamation marks in your answers.": ("exclamation marks", "none"),
    "Stop apologising in your answers.": ("apologies", "none"),
    "Don't end your answers with a question.": ("closing question", "none"),
}
NOTHING = (
    "Make it shorter.",
    "Can you keep it short?",
    "Translate this into German.",
    "Answer in French this time.",
    "Write a short story about a dog.",
    "Use bullet points for this list.",
    "How do I use tabs in vim?",
    "Why do you use emojis?",
    "Give me three sentences about Rome.",
    "Rewrite my essay in British English.",
    "My code has four spaces here.",
    'He said "keep your answers short".',
    "If I were you I would keep answers short.",
    "Summarise: always answer in German.",
    "The contract says answers should be short.",
)


def wishes(text: str) -> list[tuple[str | None, str]]:
    return [
        (item.subject, item.value)
        for item in read_message(text)
        if isinstance(item, Claim) and item.kind == "preference"
    ]


@pytest.mark.parametrize("text", WISHES)
def test_a_wish_is_read(text: str) -> None:
    assert wishes(text) == [WISHES[text]]


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_no_lasting_wish_is_not(text: str) -> None:
    assert wishes(text) == []


def test_what_is_wished_can_be_checked() -> None:
    for subject, value in WISHES.values():
        lesson = Lesson("preference", subject, "so it was said", value)
        assert checkable((lesson,)) is not None, (subject, value)
