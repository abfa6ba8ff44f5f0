"""What repeats a secret of its conversation is not written, whole or in part; nor is much else."""

import json
from pathlib import Path
from typing import Any

import pytest

from homebox.memory.ledger import Ledger
from homebox.memory.secrets.echoes import _MOST, Echoes
from homebox.memory.turns import Message, Turn

WIFI = "Xk29-Lisbon-77"
SALT = b"salt"


def said(ledger: Ledger, asked: str, answer: str, **more: Any) -> Turn:
    """Write a turn and return it as it was written."""
    details, prompt = more.pop("details", ""), more.pop("prompt", ())
    plain = {"model": "homebox", "adapter": "base", "sampling": {}, "finish_reason": "stop"}
    question = Message("user", asked, "owner")
    id = ledger.append(
        messages=(question, Message("assistant", answer, "assistant", details)),
        prompt=(*prompt, question),
        prompt_tokens=1,
        completion_tokens=1,
        **{**plain, "conversation": "c1", **more},
    )
    turn = ledger.turn(id)
    assert turn is not None
    return turn


def words(turn: Turn) -> str:
    """Return all that a turn says."""
    return json.dumps([[each.content, each.details] for each in (*turn.prompt, *turn.messages)])


def echoes(text: str, *told: str) -> list[str]:
    """Return what of a text repeats one of some secrets."""
    return [
        text[item.start : item.end]
        for item, _ in Echoes(dict.fromkeys(told, "password"), SALT).found(text)
    ]


@pytest.mark.parametrize("redact", [True, False])
def test_an_answer_does_not_keep_a_part_of_what_was_told(tmp_path: Path, redact: bool) -> None:
    ledger = Ledger(tmp_path / "ledger.db", redact=redact)
    call = {"function": {"name": "note", "arguments": json.dumps({"text": f"join {WIFI}"})}}
    details = {"reasoning_content": "They said xk29-lisbon.", "tool_calls": [call]}
    first = said(
        ledger,
        f"our wifi password is {WIFI}",
        "Your wifi password is Xk29.",
        details=json.dumps(details),
        token_ids=(1, 2, 3),
    )
    later = said(ledger, "and again?", "It ends with Lisbon-77, so Xk29-Lis and so on.")
    told = words(first) + words(later)
    for part in ("Xk29", "xk29", "Lisbon-77", "lisbon"):
        assert (part in told) is not redact
    if redact:
        assert first.token_ids == ()
        (mark,) = {each[:12] for each in told.split("[secret:password:")[1:]}
        assert len(mark) == 12  # a part is known as the same secret
    assert ledger.verify() == 2
    ledger.close()


def test_a_conversation_is_no_other_conversation(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    said(ledger, f"our wifi password is {WIFI}", "Noted.")
    assert "[secret" in words(said(ledger, "Hm.", f"Is it {WIFI}?"))
    assert WIFI in words(said(ledger, "Hm.", f"A word: {WIFI}", conversation="c2"))
    assert WIFI in words(said(ledger, "Hm.", f"A word: {WIFI}", owner="another"))
    ledger.close()


def test_what_was_told_before_a_restart_is_known_by_its_digest(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    first = said(ledger, f"our wifi password is {WIFI}", "Noted.")
    ledger.close()
    again = Ledger(tmp_path / "ledger.db")
    later = said(again, "Hm.", f'So "{WIFI}".', prompt=first.messages)
    assert WIFI not in words(later)
    assert later.messages[1].content.startswith('So "[secret:')
    again.close()


def test_a_plain_word_that_only_the_model_calls_a_password_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    said(ledger, "Hm.", "The password is marmalade.")
    assert "marmalade" in words(said(ledger, "I like marmalade.", "Marmalade is good."))
    said(ledger, "my password is marmalade", "I see.")
    assert "marmalade" not in words(said(ledger, "which?", "It was Marmalade.")).lower()
    ledger.close()


@pytest.mark.parametrize(
    ("secret", "text", "found"),
    [
        (WIFI, f"<{WIFI}>", [WIFI]),
        (WIFI, f"https://x.example/{WIFI}/a", [WIFI]),
        (WIFI, "XK29, I think", ["XK29"]),
        (WIFI, "it begins with Xk29-", ["Xk29"]),
        (WIFI, "a tram in Lisbon has 77 seats", []),
        ("Kestrel!4471", "the password: Kestrel and so on", ["Kestrel"]),
        ("Kestrel!4471", "a kestrel is a bird, 4471 of them", []),
        ("seven purple otters dance", "purple otters, you said", ["purple otters"]),
        ("seven purple otters dance", "seven of the otters, I mean", []),
        ("883 201", "so 883201 it is", ["883201"]),
        ("4539148803436467", "ends with 6467", []),
        ("331", "331 is on its back, 1,331 is not, nor 331.5", ["331"]),
        ("1947", "in 1947, not in 11947 or 1947.5", ["1947"]),
        ("wJalrXUtnFEMIbPxRfiCY", "it has XUtnFEMIbP in it", ["XUtnFEMIbP"]),
        ("-----BEGIN KEY-----\nb3BlbnNzaC1rZXk\n", "BEGIN KEY b3BlbnNzaC1", ["b3BlbnNzaC1"]),
        ("İstanbul99", "ok, istanbul99 or İSTANBUL99", ["stanbul99", "İSTANBUL99"]),
        ("the", "the thing", []),
    ],
)
def test_parts_that_tell_much_are_found(secret: str, text: str, found: list[str]) -> None:
    assert echoes(text, secret) == found


def test_a_mark_stays_as_it_is() -> None:
    text = f"[secret:password:29aa77bb00cc] and {WIFI}"
    assert echoes(text, WIFI, "29aa77bb") == [WIFI]


def test_a_text_full_of_beginnings_is_searched_for_whole_secrets() -> None:
    text = "aaaab " * _MOST + WIFI
    assert echoes(text, "aaaabc", WIFI) == [WIFI]
    assert echoes("a" * 4 * _MOST, "a" * 8 + "b") == []
