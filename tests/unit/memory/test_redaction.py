"""Secrets: found as people tell them, gone from every file, and ordinary text left alone."""

import base64
import hashlib
import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.memory.feedback import Feedback
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson
from homebox.memory.secrets.finding import PLACEHOLDER, find_secrets
from homebox.memory.secrets.redaction import digest_of, redacted, reproduced
from homebox.memory.spans import spans_of
from homebox.memory.state import open_state
from homebox.memory.turns import Message
from tests.unit.memory.canaries import KINDS, Canary, canaries
from tests.unit.memory.kit import files, say

SALT = b"salt of the tests"
ROOT = Path(__file__).parents[3]
COUNT = 56 * len(KINDS)


def turn_of(canary: Canary, number: int) -> dict[str, Any]:
    """Return a turn that tells a canary in one of the places where one may stand."""
    text = canary.text
    arguments = json.dumps({"command": text})
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    user = Message("user", text, "owner")
    answer = Message("assistant", "I see.", "assistant")
    places: list[dict[str, Any]] = [
        {"messages": (user, answer)},
        {"messages": (user, answer), "prompt": (user,)},
        {"messages": (Message("assistant", text, "assistant"),), "token_ids": [1, 2]},
        {"messages": (Message("tool", text, "tool"), answer)},
        {"messages": (Message("assistant", "", "assistant", json.dumps({"tool_calls": [call]})),)},
        {
            "messages": (
                Message("assistant", "Yes.", "assistant", json.dumps({"reasoning_content": text})),
            )
        },
        {"messages": (user, answer), "offered": json.dumps({"variables": {"note": text}})},
    ]
    return places[number % len(places)]


def left(ledger: Ledger, told: dict[str, Canary]) -> list[Canary]:
    """Return the canaries that stand in their turns as they were told."""
    found = []
    for turn in ledger.turns():
        kept = PLACEHOLDER.sub("", f"{turn.messages} {turn.prompt} {turn.offered}")
        secret = told[turn.id].secret
        if secret in kept or json.dumps(json.dumps(secret)[1:-1])[1:-1] in kept:
            found.append(told[turn.id])
    return found


def write(path: Path, redact: bool) -> list[Canary]:
    told = {}
    with open_state(path, redact=redact) as state:
        for number, canary in enumerate(canaries(COUNT, seed=8)):
            id = say(state.ledger, "", **turn_of(canary, number // len(KINDS)))
            told[id] = canary
        everything = b"".join(files(path).values())  # with what is in the write-ahead log
        missed = left(state.ledger, told)
        assert state.ledger.verify() == COUNT
    everything += b"".join(files(path).values())
    long = [canary for canary in told.values() if 10 <= len(canary.secret) < 200]
    seen = [canary for canary in long if canary.secret.encode() in everything]
    return [*missed, *(canary for canary in seen if canary not in missed)]


def test_a_thousand_canaries_are_in_no_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    assert len(KINDS) >= 12
    assert COUNT >= 1000
    missed = write(tmp_path / "state", redact=True)
    assert len(missed) <= COUNT // 100, missed
    control = write(tmp_path / "control", redact=False)
    assert len(control) >= 0.95 * COUNT


@pytest.mark.parametrize("seed", range(3))
def test_canaries_of_other_seeds_are_found(seed: int) -> None:
    drawn = canaries(COUNT, seed)
    kept = [PLACEHOLDER.sub("", redacted(each.text, SALT)) for each in drawn]
    missed = [each for each, text in zip(drawn, kept, strict=True) if each.secret in text]
    assert len(missed) <= COUNT // 100, missed


def test_a_secret_has_one_digest_wherever_it_stands() -> None:
    known = 0
    for canary in canaries(20 * len(KINDS), seed=1):
        digest = digest_of(canary.secret, SALT)
        known += digest in PLACEHOLDER.findall(redacted(canary.text, SALT))
        assert reproduced(f"It is: {canary.secret}.", SALT, {digest})
        assert not reproduced(f"It is: {canary.secret}.", b"another", {digest})
        assert not reproduced("It is something else, I think.", SALT, {digest})
    assert known >= 0.85 * 20 * len(KINDS)
    digest = digest_of("4111 1111 1111 1111", SALT)
    assert reproduced("Your card? 4111-1111-1111-1111, I think.", SALT, {digest})


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(0, 10_000))
def test_redacting_twice_is_redacting_once(text: str, seed: int) -> None:
    told = f"{text}{canaries(1, seed)[0].text}{text}"
    once = redacted(told, SALT)
    assert redacted(once, SALT) == once
    found = find_secrets(told)
    assert [item.start for item in found] == sorted(item.start for item in found)
    assert all(0 <= item.start < item.end <= len(told) for item in found)


TOLD = (
    ("My Hopo password is <S>.", "ZkXdggxZwKxV"),
    ("The password for Hopo is <S>, can you log in?", "ZkXdggxZwKxV"),
    ("username bob password <S>", "zkXdggxZwKxV"),
    ("admin / <S> are the credentials", "ZkXdggxZwKxV"),
    ("hunter2 / <S> are our credentials for the wiki", "Tr0mbone"),
    ("The credentials are admin / <S>", "swordfish"),
    ("My login is bob / <S>", "ZkXdggxZwKxV"),
    ("Here is the code they texted me: <S>", "482910"),
    ("Here is the code they texted me: <S>.", "ZKXDGG"),
    ("the code I got by SMS is <S>\nwhat now?", "G-482910"),
    ("They texted me a code: <S>", "48 29 10"),
)


@pytest.mark.parametrize(("text", "secret"), TOLD)
def test_what_only_its_context_shows_is_found(text: str, secret: str) -> None:
    kept = redacted(text.replace("<S>", secret), SALT)
    assert secret not in kept
    assert digest_of(secret, SALT) in PLACEHOLDER.findall(kept)


PIXELS = random.Random(1).randbytes(3000)
ORDINARY = (
    "My password is MicrosoftAccount style, the other password is JavaScript-based.",
    "The error code they sent me: 482910. The code they sent is 2000 lines long.",
    "The tracking code they texted me: 4829. The code in the email: URGENT",
    "The login is slow / broken. login: src / login.py; credentials: userName / passWord",
    "The password is wrong, please try again. My password is too long, it says.",
    "def login(user: str, password: str = '', token: str = '') -> None:",
    'parser.add_argument("--password", help="password of the user", default=None)',
    "password = getpass.getpass()\ntoken = tokens[0]\nkey = keys[index]\nsecret = load(path)",
    f"commit {hashlib.sha1(b'x').hexdigest()}\nAuthor: Ada <ada@example.org>\nDate: May 4",
    f"sha256:{hashlib.sha256(b'x').hexdigest()} and {uuid.UUID(int=2**127 + 12345)}",
    f'<img src="data:image/png;base64,{base64.b64encode(PIXELS).decode()}">',
    '"integrity": "sha512-' + base64.b64encode(random.Random(2).randbytes(64)).decode() + '"',
    "/usr/lib/python3.11/site-packages/numpy/core/_multiarray.cpython-311-x86_64-linux-gnu.so",
    "Error code 404, exit code 139, zip code 90210; call me at +49 30 1234567 or 555-0134.",
    "Connect pin 13 to the LED. I pinned the version. The key is under the mat at the door.",
    "Ports 1024-65535 are free; 3.14159265358979 is pi; it took 1700000000000 ns on 2026-05-04.",
    "Pass the salt. I passed the exam. The code is good. The token limit is 4096 tokens.",
    "https://example.org/watch?v=dQw4w9WgXcQ and http://localhost:4310/v1/chat/completions",
    "The gate opens at 8. The alarm is at 7:30. My passport is in the drawer, the tax is 19 %.",
    "My dog is called Rex. My sister lives at 12 Main Street. I was born on 4 May 1981.",
    "the words in this list are plain and they are long enough to be a phrase but they are not",
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ0\n-----END CERTIFICATE-----",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redacted(text, SALT) == text


def test_false_alarms_in_this_repository_are_rare() -> None:
    paths = [*ROOT.glob("homebox/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    texts = [path.read_text() for path in paths if "secrets" not in path.parts]
    found = [item for text in texts for item in find_secrets(text)]
    size = sum(map(len, texts))
    assert size > 1_000_000
    assert len(found) <= size / 50_000


HOSTILE = (
    *("password: ", "password is ", "pin ", "key=", "private key ", "code for the ", "a_", "sk-"),
    *("1 ", "0000 ", "GB29 ", "://a:", "-----BEGIN A-----\n", "-----BEGIN PRIVATE KEY-----\n"),
    *("seed words ", "abandon ability ", "recovery code ", " is my", "door opens ", "eyJ", "Zz9/"),
    *(
        "password from ",
        "[secret:",
        "[secret:pin:0123456789ab]",
        '{"a":',
        "bearer ",
        "İ",
        "\n",
        "'",
    ),
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_texts_end(piece: str) -> None:
    # If anything were quadratic, this would take minutes.
    find_secrets(piece * (100_000 // len(piece)))


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def test_pieces_and_spans_are_counted_anew(ledger: Ledger) -> None:
    read = 'Called the Read tool with the following input: {"filePath":"/x"}'
    pieces = [
        read,
        "<path>/x</path>\n<type>file\npassword: hunter2\n",
        "My password is Gr8-horse-7.",
    ]
    details = json.dumps({"parts": [len(piece) for piece in pieces]})
    message = Message("user", "".join(pieces), "owner", details)
    id = say(ledger, "", messages=(message, Message("assistant", "ok", "assistant")))
    turn = ledger.turn(id)
    assert turn is not None
    kept = turn.messages[0]
    assert "hunter2" not in kept.content
    assert "Gr8" not in kept.content
    ends = json.loads(kept.details)["parts"]
    assert sum(ends) == len(kept.content)
    spans = spans_of(kept)
    told = [(span.provenance, kept.content[span.start : span.end]) for span in spans]
    assert [whose for whose, _ in told][-1] == "owner"
    assert told[-1][1].startswith("My password is [secret:password:")
    assert {whose for whose, _ in told[:-1]} == {"file"}
    assert "".join(text for _, text in told) == kept.content


def test_an_answer_that_changes_loses_its_ids_and_calls_keep_theirs(ledger: Ledger) -> None:
    call_id = "call_Ab3dE5gH7jK9mN1pQ3sT5vW7yZ"
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    details = json.dumps({"tool_calls": [call]}, indent=1)  # a layout of its own
    plain = say(
        ledger, "x", messages=(Message("assistant", "x", "assistant", details),), token_ids=[1, 2]
    )
    turn = ledger.turn(plain)
    assert turn is not None
    assert (turn.messages[0].details, turn.token_ids) == (details, (1, 2))
    secret = say(ledger, "x", answer="Your password is hunter2.", token_ids=[3, 4])
    turn = ledger.turn(secret)
    assert turn is not None
    assert turn.token_ids == ()


def test_opinions_and_lessons_hold_no_secret(ledger: Ledger, tmp_path: Path) -> None:
    id = say(ledger, "Hello.")
    ledger.give_feedback("", Feedback(id, "edited", "my password is Gr8-horse-77")).result()
    body = json.dumps({"messages": [{"role": "user", "content": "password: Gr8-horse-77"}]})
    lesson = Lesson("demonstration", "x", "my pin is 4711", "4711", (id,), body=body)
    name = ledger.add_lesson(lesson)
    (kept,) = ledger.lessons()
    assert kept.hash == name != lesson.hash
    assert "Gr8-horse-77" not in f"{kept} {ledger.feedback()}"
    assert b"Gr8-horse-77" not in b"".join(files(tmp_path).values())
    assert digest_of("Gr8-horse-77", ledger.salt) in ledger.secret_digests()
    assert len(ledger.salt) == 32


def test_the_salt_stays_and_is_each_ledgers_own(tmp_path: Path) -> None:
    salts = []
    for name in ("a.db", "a.db", "b.db"):
        ledger = Ledger(tmp_path / name)
        salts.append(ledger.salt)
        ledger.close()
    assert salts[0] == salts[1] != salts[2]
    assert Ledger(tmp_path / "a.db", read_only=True).salt == salts[0]


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x01\x02" * 10_000,
        random.Random(3).randbytes(1_000_000).decode("latin-1"),
        "Hello there. " * 80_000,
        "\ud800 lone \udfff",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 İstanbul " * 1000,
    ],
)
def test_junk_and_long_texts_are_kept(ledger: Ledger, text: str) -> None:
    turn = ledger.turn(say(ledger, text))
    assert turn is not None
    kept = turn.messages[0].content
    assert kept == text.encode("utf-8", "replace").decode() or PLACEHOLDER.search(kept)
    assert len(kept) >= 0.99 * len(text)
    assert ledger.verify() == 1
