"""Reads what the owner tells outright to be remembered: nothing of it is lost.

The one idea: who says "remember" wants it kept, so the rules need not recognise the sentence. What
they do not is cut at its "is"; what has none is a note, which no exam can ask for and no weights
learn, so that it works from the prompt only. Invariant: a secret is refused here as everywhere.
"""

import re

from homebox.learning.reading.guard import secret_in
from homebox.learning.reading.rule_files import NO_RULES, Rules
from homebox.learning.reading.rules import Claim, Refusal, read_message
from homebox.learning.reading.told import cleaned
from homebox.learning.reading.topics import NOTE

REMEMBER = "remember"
COMMANDS = (REMEMBER, "forget", "good", "bad", "fix", "private", "help")
MOST_NOTE = 500  # characters of a note
SECRET = "secret"
TOO_LONG = "too long for a note"
# Of these a person may well speak who wants them kept; the others sound planted wherever they are.
_FINE = ("a web address", "tools or commands", "credentials")
_ORDER = re.compile(rf"\A\s*/((?ai:{'|'.join(COMMANDS)}))(?:\s+|\Z)")
_SET = re.compile(r"(?P<subject>[^=\n]{1,80}?)\s=\s(?P<value>[^=\n]{1,200})")
_LEAD = re.compile(r"^(?:that|please|this|:|,)\s+", re.IGNORECASE)
_IS = re.compile(
    r"(?:my |our |the )?(?P<subject>[^.!?;:,\n]{1,60}?)(?:\s(?:is|are|was|were)|:)\s"
    r"(?P<value>[^\n]{1,200})",
    re.IGNORECASE,
)
_NO_SUBJECT = re.compile(
    r"\b(?:i|you|he|she|it|we|they|this|that|there|these|those|what|who|where|when|why|how|if)\b",
    re.IGNORECASE,
)


def command_of(typed: str) -> tuple[str, str]:
    """Return the order that a message begins with, without its stroke, and the rest."""
    match = _ORDER.match(typed)
    return (match.group(1).lower(), typed[match.end() :].strip()) if match else ("", typed)


def remembered(text: str, rules: Rules = NO_RULES) -> list[Claim | Refusal]:
    """Read a sentence that is to be remembered; "topic = value" sets that topic."""
    text = _LEAD.sub("", " ".join(text.split()))
    if not text:
        return []
    if secret_in(text):
        return [Refusal(SECRET)]
    if (given := _SET.fullmatch(text)) is not None:
        return [_claim(given["subject"], given["value"], text)]
    found = [_allowed(item) for item in read_message(text, rules)]
    if any(isinstance(item, Refusal) or item.subject is not None for item in found):
        return found
    cut = _IS.fullmatch(text)
    if cut is not None and not _NO_SUBJECT.search(cut["subject"]):
        return [_claim(cut["subject"].strip().lower(), cut["value"], text)]
    return [Refusal(TOO_LONG) if len(text) > MOST_NOTE else Claim("fact", NOTE, text, text)]


def _claim(subject: str, value: str, statement: str) -> Claim:
    return Claim("fact", " ".join(subject.split()), cleaned(value) or value, statement)


def _allowed(item: Claim | Refusal) -> Claim | Refusal:
    if isinstance(item, Refusal) or not item.reason.endswith(_FINE):
        return item
    return Claim(item.kind, item.subject, item.value, item.statement, item.refuted)
