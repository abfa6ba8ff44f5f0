"""Secrets in the words of owners in a hurry, ordinary lines that look alike, and the one pass."""

import random
from pathlib import Path

import pytest

from homebox.memory.secrets import finding
from homebox.memory.secrets.cues import Index
from homebox.memory.secrets.finding import SCAN, find_secrets
from homebox.memory.secrets.named import NAMED
from homebox.memory.secrets.signs import CROWD, MOST, Scan, each_alone
from homebox.memory.secrets.view import View

FOLDER = Path(__file__).parent


def lines(name: str) -> list[str]:
    """Return the lines of a table; a broken bar keeps a form from looking like a maker's key."""
    text = (FOLDER / name).read_text(encoding="utf-8").replace("¦", "")
    return [line.replace("↵", "\n") for line in text.split("\n") if line]


def marked(line: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a line without the brackets around its secrets, and where these stand."""
    text, spans, start = "", [], 0
    for letter in line:
        if letter == "⟦":
            start = len(text)
        elif letter == "⟧":
            spans.append((start, len(text)))
        else:
            text += letter
    return text, spans


def left() -> tuple[list[str], int]:
    """Return the secrets of the table that are not found whole, and how many there are."""
    missed, count = [], 0
    for line in lines("hurried_secrets.txt"):
        text, spans = marked(line)
        gone = {place for item in find_secrets(text) for place in range(item.start, item.end)}
        count += len(spans)
        missed += [
            text[start:end]
            for start, end in spans
            if any(text[place].isalnum() and place not in gone for place in range(start, end))
        ]
    return missed, count


def test_what_owners_type_in_a_hurry_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    missed, count = left()
    assert count >= 440
    assert len(missed) <= 0.03 * count, missed
    monkeypatch.setattr(finding, "INDEX", Index(NAMED))
    monkeypatch.setattr(finding.made, "made", lambda view: ())
    monkeypatch.setattr(finding, "unmistakable", lambda view: ())
    control, _ = left()
    assert len(control) >= 0.2 * count


def test_ordinary_lines_stay_as_they_are() -> None:
    texts = lines("hurried_ordinary.txt")
    assert len(texts) >= 300
    assert [text for text in texts if find_secrets(text)] == []


def texts() -> list[str]:
    """Return long texts: of letters alone, of what the tables say, of signs cut into pieces."""
    draw = random.Random(5)
    told = [marked(line)[0] for line in lines("hurried_secrets.txt")]
    told += lines("hurried_ordinary.txt")
    signs = SCAN.signs
    draw.shuffle(told)
    pieces = [sign[: draw.randint(1, len(sign))] for sign in draw.choices(signs, k=1500)]
    words = ["".join(draw.choices("etaoinshé?", k=draw.randint(2, 9))) for _ in range(4000)]
    return [
        "\n".join(told),
        "".join(draw.choices(signs, k=1500)),
        "".join(pieces),
        " ".join(words) + " abandon" * 12 + ".",
        "".join(draw.choices("ab =\"'{}01łßİ\n", k=5000)),
        "".join(sign + draw.choice(["", "passwordpassword", "ł"]) for sign in signs),
    ]


@pytest.mark.parametrize("number", range(6))
def test_one_pass_finds_what_looking_for_each_sign_finds(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = texts()[number]
    lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    found = SCAN.places(lower)
    assert found == {sign: each_alone(lower, sign) for sign in SCAN.signs}
    monkeypatch.setattr("homebox.memory.secrets.view.thinned", lambda places, _: (places, []))
    together = find_secrets(text)
    monkeypatch.setattr("homebox.memory.secrets.view.LONG", len(text) + 1)
    monkeypatch.setattr("homebox.memory.secrets.wallets.LONG", len(text) + 1)
    assert find_secrets(text) == together


def test_a_sign_at_the_ends_is_found() -> None:
    scan = Scan(["pin", "password", "@", "хай"])
    assert scan.places("pin @ хай password") == {"pin": [0], "@": [4], "хай": [6], "password": [10]}
    assert scan.places("") == {"pin": [], "@": [], "хай": [], "password": []}


@pytest.mark.parametrize(
    "piece",
    ["password ", "--pass ", "code 1 ", "pin 1234, ", "login a and ", "key: a1b2c3d4 ", "@"],
)
def test_in_a_crowd_of_signs_a_bounded_number_is_looked_at(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = piece * (100_000 // len(piece))

    def looked_at() -> int:
        view = View(text, SCAN)
        return sum(len(view.signs(sign)) for sign in SCAN.signs)

    most = MOST * ((len(text) >> CROWD) + 1)
    assert looked_at() <= most
    monkeypatch.setattr("homebox.memory.secrets.view.thinned", lambda places, _: (places, []))
    assert looked_at() > most


def test_a_secret_in_a_crowd_of_signs_is_found() -> None:
    text = f"{'password ' * 400}Tr0ut&Salmon9 {'password ' * 400}"
    assert "Tr0ut&Salmon9" in [text[each.start : each.end] for each in find_secrets(text)]


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("sort code 20-00-00", []),
        ("My sort code is 20-00-00, and the bank is in Leeds.", []),
        ("what is the branch with sort code: 200000?", []),
        ("the garage door is stuck, and my sort code is 20-00-00", []),
        ("sort code 20-00-00, account 55779911", ["55779911"]),
        ("Sort code: 20-00-00 account number: 55779911", ["55779911"]),
        ("sort code 20-00-00 / 55779911", ["55779911"]),
        ("sort code is 20 00 00 and then 5577 9911", ["5577 9911"]),
        ("account number 55779911, sort code 20-00-00", ["55779911"]),
    ],
)
def test_a_sort_code_is_no_secret_and_the_account_beside_it_is(
    text: str, secrets: list[str]
) -> None:
    assert [text[each.start : each.end] for each in find_secrets(text)] == secrets


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("my number is 756.9217.0769.85", True),
        ("my number is 756.9217.0769.86", False),  # another check digit
        ("they know me as AB 12 34 56 C", True),
        ("they know me as AB 12 34 56 X", False),
    ],
)
def test_numbers_of_persons_prove_themselves(text: str, found: bool) -> None:
    assert bool(find_secrets(text)) == found
