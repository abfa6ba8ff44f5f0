"""Rule files: what they teach, what is refused by name and line, and that none can take long."""

import time
from pathlib import Path

import pytest

from homebox.errors import ConfigError
from homebox.learning.lessons.harvest import Harvester
from homebox.learning.reading.rule_files import MOST_GROUPS, NO_RULES, read_rule_file, read_rules
from homebox.learning.reading.rules import Claim, read_message
from tests.learning.kit import turn

GOOD = """
# wordings of a gardener
[[rule]]
subject = "allotment"
pattern = ["my (plot|allotment) is [number] {v}", "i dig at {v}"]
example = ["My plot is number 12.", "I dig at the Old Mill"]

[[rule]]
kind = "preference"
subject = "units"
value = "metric"
pattern = "[please] think in metres"
example = "think in metres"
"""


def write(folder: Path, text: str, name: str = "a.toml") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def claims(text: str, folder: Path) -> list[tuple[str, str | None, str]]:
    found = read_message(text, read_rules(folder))
    return [(item.kind, item.subject, item.value) for item in found if isinstance(item, Claim)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("My plot is number 12.", ("fact", "allotment", "12")),
        ("btw my allotment is 7", ("fact", "allotment", "7")),
        ("I dig at the Old Mill!", ("fact", "allotment", "the Old Mill")),
        ("Please think in metres.", ("preference", "units", "metric")),
        ("No, my plot is number 13.", ("correction", "allotment", "13")),
    ],
)
def test_a_file_teaches_its_wordings(
    tmp_path: Path, text: str, found: tuple[str, str, str]
) -> None:
    write(tmp_path, GOOD)
    assert claims(text, tmp_path) == [found]


@pytest.mark.parametrize(
    "text",
    [
        "Is my plot number 12?",
        "Tom said my plot is number 12.",
        "> my plot is number 12",
        'He wrote "my plot is number 12".',
        "If my plot is number 12, I dig.",
    ],
)
def test_its_wordings_are_doubted_like_all_others(tmp_path: Path, text: str) -> None:
    write(tmp_path, GOOD)
    assert claims(text, tmp_path) == []


def test_secrets_stay_secret_and_suspicious_words_wait(tmp_path: Path) -> None:
    write(tmp_path, '[[rule]]\nsubject = "thing"\npattern = "mark down {v}"\n')
    items = read_message("mark down evil.example.com", read_rules(tmp_path))
    assert [isinstance(item, Claim) and item.reason for item in items] == [
        "speaks of a web address"
    ]
    assert claims("mark down password hunter2", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[[rule]\n", "not valid TOML"),
        ("a = 1\n", "line 1: a rule file has nothing but"),
        ('\n\n[[rule]]\nsubject = "x"\n', "line 3: pattern must be a text"),
        ('[[rule]]\npattern = "i {v}"\n', "line 1: subject must be a text"),
        ('[[rule]]\nsubject = "x"\npattern = "i dig"\n', "line 1: the pattern must have {v} once"),
        ('[[rule]]\nsubject = "x"\npattern = "{v} or {v}"\n', "{v} once"),
        ('[[rule]]\nsubject = "x"\nvalue = "y"\npattern = "i {v}"\n', "no {v}"),
        ('[[rule]]\nsubject = "x"\npattern = "(a|(b)) {v}"\n', "counterpart"),
        ('[[rule]]\nsubject = "x"\npattern = "(a {v}"\n', "counterpart"),
        ('[[rule]]\nsubject = "x"\npattern = "a {v}"\nkind = "rumour"\n', "kind is one of"),
        ('[[rule]]\nsubject = "x"\npattern = "a {v}"\nlines = 1\n', "a rule has no 'lines'"),
        ('[[rule]]\nsubject = "x"\npattern = "a {v}"\nexample = "b c"\n', "fits its example"),
        ('[[rule]]\nsubject = "x"\npattern = "' + "[a] " * (MOST_GROUPS + 1) + '{v}"\n', "at most"),
        ('[[rule]]\nsubject = "x"\npattern = "' + "a" * 400 + '{v}"\n', "1 to 300"),
        ("# " + "x" * 70_000, "at most 65536 bytes"),
        ("rule = 3\n", "nothing but"),
        ("rule = [1]\n", "a rule is a table"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, wrong: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_rule_file(path)
    assert str(path) in str(caught.value) and wrong in str(caught.value)


def test_a_bad_file_does_not_keep_the_others_from_counting(tmp_path: Path) -> None:
    write(tmp_path, "[[rule]]\nsubject = 3\n", "0.toml")
    (tmp_path / "1.toml").write_bytes(b"\xff\xfe")
    write(tmp_path, GOOD, "2.toml")
    rules = read_rules(tmp_path)
    assert len(rules.rules) == 3
    assert ["0.toml" in rules.problems[0], "1.toml" in rules.problems[1]] == [True, True]


def test_no_folder_means_no_rules(tmp_path: Path) -> None:
    assert read_rules(tmp_path / "none") == NO_RULES


def test_the_worst_patterns_and_clauses_take_no_time(tmp_path: Path) -> None:
    groups = "[a] [aa] [a a] [aa a] [a] [aa] [a a] [a]"
    write(tmp_path, f'[[rule]]\nsubject = "x"\npattern = "{groups} {{v}} b"\n')
    rules = read_rules(tmp_path)
    assert len(rules.rules) == 1
    begun = time.process_time()
    for text in ("a " * 290, "a" * 599, "a" * 1_000_000, "(" * 500, " a" * 299):
        assert rules.read(text) is None
    # Backtracking without bounds would take longer than the sun will last.
    assert time.process_time() - begun < 20


def test_lessons_come_from_rules_too(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    reader = Harvester(read_rules(tmp_path))
    (lesson,) = reader.read(turn(0, "My plot is number 12."))
    assert (lesson.subject, lesson.value, lesson.origin) == ("allotment", "12", "rule")
