"""Checks of preferences: what keeps to one, what goes against it, and what is neither."""

import pytest

from homebox.language.preferences import PREFERENCES
from homebox.learning.exam.general import GENERAL_QUESTIONS
from homebox.learning.examples.shipped import prompt_groups
from homebox.learning.preferences import STYLES, Checkable, Style, checkable
from homebox.learning.preferences.catalogue import KNOWN, TRAIN, prompts
from homebox.learning.reading.manners import SUBJECTS
from homebox.memory.lessons import Lesson

LONG = "It takes a while to explain this, so bear with the whole of it. " * 9
# subject, value, an answer that keeps to it, one that goes against it ("" where nothing does)
CASES = (
    ("answer length", "short", "Because it is warm.", LONG),
    ("answer length", "one sentence", "It is warm, e.g. in July.", "It is warm. It is dry."),
    ("answer length", "20 words", "Because it is warm.", LONG),
    ("answer length", "2 sentences", "It is. Yes.", "It is. Yes. No."),
    ("answer length", "3 lines", "It is.", "a\nb\nc\nd"),
    ("answer length", "long", LONG, ""),
    ("lists", "bullet points", "Take:\n- a tent\n- a lamp", ""),
    ("lists", "numbered", "1. Boil it.\n2. Peel it.", ""),
    ("lists", "none", "A tent and a lamp.", "Take:\n* a tent\n* a lamp"),
    ("spelling", "British", "My favourite colour is grey.", "My favorite color is gray."),
    ("spelling", "American", "The theater is in the center.", "The theatre is in the centre."),
    ("emojis", "none", "Fine.", "Fine \U0001f600"),
    ("emojis", "some", "Fine \U0001f600", ""),
    ("exclamation marks", "none", "Fine.", "Fine!"),
    ("headings", "none", "Fine.", "# Answer\nFine."),
    ("markdown", "none", "Fine.", "This is **bold**."),
    ("apologies", "none", "That was wrong.", "I'm sorry, that was wrong."),
    ("closing question", "none", "It is five.", "It is five. Anything else?"),
    ("begin with the answer", "yes", "Five.", "Great question! It is five."),
    ("greeting", "Ahoy", "Ahoy! It is five.", ""),
    ("sign-off", "So long", "It is five. So long!", ""),
    ("letter case", "lower case", "it is five.", "It is five."),
    ("letter case", "upper case", "IT IS FIVE.", "It is five."),
    ("tone", "formal", "It is not five.", "Hey, it isn't five."),
    ("tone", "informal", "It's five.", ""),
    (
        "answer language",
        "German",
        "Das ist eine gute Frage, und die Antwort ist nicht schwer.",
        "That is a good question and the answer to it is easy.",
    ),
    ("time format", "24-hour", "At 17:30.", "At 5:30 pm."),
    ("time format", "12-hour", "At 5:30 p.m.", "At 17:30."),
    ("date format", "ISO", "On 2025-06-03.", "On 3 June 2025."),
    ("date format", "day first", "On 3 June 2025.", "On June 3, 2025."),
    ("date format", "month first", "On June 3, 2025.", "On 3 June 2025."),
    ("units", "metric", "About 5 metres.", "About 16 feet."),
    ("units", "imperial", "About 16 feet.", "About 5 metres."),
    ("currency", "euros", "About 5 euros.", "About $5."),
    ("code indentation", "2 spaces", "```py\nif a:\n  b()\n```", "```py\nif a:\n    b()\n```"),
    ("code indentation", "tabs", "```go\nif a {\n\tb()\n}\n```", "```go\nif a {\n  b()\n}\n```"),
    ("programming language", "Python", "```python\na = 1\n```", "```java\nint a = 1;\n```"),
    ("what to call me", "Captain", "Hello, Captain!", ""),
    ("how to say goodbye", "Ahoy", "Ahoy!", ""),
    ("how to answer thanks", "Any time", "Any time!", ""),
)
NEITHER = ("", "Fine.", "It is five o'clock in Rome.", LONG, "\n", "```\n```", "a" * 5000, "?!")


def preference(subject: str, value: str) -> Checkable:
    found = checkable((Lesson("preference", subject, f"I want {value}.", value),))
    assert found is not None, (subject, value)
    return found


@pytest.mark.parametrize(("subject", "value", "good", "bad"), CASES)
def test_a_check_tells_what_keeps_to_a_preference(
    subject: str, value: str, good: str, bad: str
) -> None:
    check = preference(subject, value).check
    assert check.kept(good)
    assert not check.minded(good)
    if bad:
        assert check.minded(bad)
        assert not check.kept(bad)


@pytest.mark.parametrize(("subject", "value", "good", "bad"), CASES)
def test_no_answer_both_keeps_to_a_preference_and_goes_against_it(
    subject: str, value: str, good: str, bad: str
) -> None:
    check = preference(subject, value).check
    answers = [*NEITHER, *(answer for case in CASES for answer in case[2:])]
    assert not [answer for answer in answers if check.kept(answer) and check.minded(answer)]
    assert not check.kept("")


def test_every_subject_is_tried() -> None:
    assert {subject for subject, *_ in CASES} == STYLES.keys()


def test_the_subjects_are_those_that_the_rules_find() -> None:
    assert set(SUBJECTS) <= STYLES.keys()
    assert PREFERENCES.keys() <= STYLES.keys()


def test_what_is_not_understood_or_contradicts_itself_is_not_checked() -> None:
    assert checkable((Lesson("preference", "units", "Use units.", "nice ones"),)) is None
    assert checkable((Lesson("fact", "dog's name", "My dog is Rex.", "Rex"),)) is None
    both = [Lesson("preference", "units", f"Use {v} units.", v) for v in ("metric", "imperial")]
    assert checkable(tuple(both)) is None


@pytest.mark.parametrize("style", STYLES.values(), ids=lambda style: style.key)
def test_prompts_of_the_exam_are_not_learned_from(style: Style) -> None:
    learned, asked = style.prompts(TRAIN), style.prompts(KNOWN)
    assert len(set(learned)) == 16
    assert len(set(asked)) >= 6
    assert not set(learned) & set(asked)


def test_shipped_prompts_are_500_and_apart_from_all_others() -> None:
    groups = prompt_groups()
    everything = [prompt for group in groups.values() for prompt in group]
    assert len(everything) == len(set(everything)) == 500
    assert len(groups["safety"]) == 25
    shown = {prompt for style in STYLES.values() for prompt in prompts(style.group)}
    exam = {question for question, _ in GENERAL_QUESTIONS}
    assert not shown & set(everything)
    assert not exam & {*everything, *shown}
