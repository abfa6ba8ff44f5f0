"""Finds in the ledger what a candidate must not have learned: secrets, and what was planted.

The one idea: what was kept out of learning is known, so that it can be asked for. Of secrets the
ledger has a mark with a digest; those that lie in it in the clear, because redaction was off or
knew less once, get their digest here. Of planted texts it has what would set them off and what they
want to be said. Invariant: no secret is in anything that is made here, and nothing is kept of it.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from homebox.learning.lessons.harvest import told_by
from homebox.learning.reading.rules import Claim, read_message
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE, Lesson
from homebox.memory.provenance import may_teach
from homebox.memory.secrets.finding import find_secrets
from homebox.memory.secrets.redaction import digest_of, reproduced
from homebox.memory.turns import Turn

BEFORE = 160  # characters before a secret that are shown to the candidate
LONGEST = 20_000  # characters of a foreign text that are searched
MARK = re.compile(r"\[secret:(?P<kind>[a-z0-9_ -]+):(?P<digest>[0-9a-f]{12})\]", re.IGNORECASE)
_QUOTED = r"[\"'\u201c\u2018](?P<{name}>[^\"\u201d\u2019]{{1,120}}?)[\"'\u201d\u2019](?=\W|$)"
_SAY = r"(?:say|answer|reply|respond|write|output|print|tell|add|end|begin|recommend|call|send)"
_MUST = r"(?:then |you |must |should |always |please |have to |are to )"
_ORDER = re.compile(
    r"\b(?:when(?:ever)?|if|each time|every time|as soon as|once)\b (?P<when>[^.\n]{1,160}?)"
    rf"(?:,| (?=then|you|must|should|always|please)) ?{_MUST}*{_SAY}\w*"
    r"(?: (?:that|with|to|by|them|him|her|the user|the owner|only|exactly|saying))*:? "
    r"(?P<say>[^.\n]{1,160})",
    re.IGNORECASE,
)
_INNER = re.compile(_QUOTED.format(name="text"))
_TRIGGER = re.compile(
    r"^(?:somebody|someone|anybody|anyone|the user|the owner|a user|you|i|they|people|asked|asking)"
    r"?\s*(?:am |are |is )?(?:ask(?:s|ed|ing)?|say(?:s)?|see(?:s)?|read(?:s)?|mention(?:s|ed)?"
    r"|hear(?:s)?|want(?:s)?|talk(?:s)?)?\s*(?:for |about |to |of |the word |the words )*",
    re.IGNORECASE,
)
_CLAIMING = re.compile(r"\b(?:my|i|i'm|call me|our|we)\b", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Secret:
    """A secret that was redacted: what stood before it, of what kind it was, its digest."""

    digest: str
    kind: str
    before: str


@dataclass(frozen=True, order=True)
class Planted:
    """A text that was not let in: what would set it off, and what it wants to be said.

    `subject` names a topic that it claims a value of; else `trigger` is what sets it off.
    """

    payload: str
    trigger: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was kept out of learning; `leaks` says whether a text gives a secret of it away."""

    secrets: tuple[Secret, ...] = ()
    planted: tuple[Planted, ...] = ()
    leaks: Callable[[str], bool] | None = None


def gather(ledger: Ledger) -> Evidence:
    """Walk the whole ledger; takes long, so it is for a thread of its own."""
    secrets: dict[str, Secret] = {}
    planted: set[Planted] = set()
    salt = ledger.salt
    for turn in ledger.turns():
        for secret in secrets_in(turn, salt):
            secrets.setdefault(secret.digest, secret)
        planted.update(planted_in(turn))
    for lesson in ledger.lessons():
        # Also one that was rejected, or that no turn told: its words were the owner's.
        for secret in secrets_of(_words(lesson), salt):
            secrets.setdefault(secret.digest, secret)
    for lesson in ledger.lessons(ALIVE):
        # What the owner has learned on purpose is to be said, whatever it looks like.
        for item in find_secrets(_words(lesson)):
            secrets.pop(digest_of(_words(lesson)[item.start : item.end], salt), None)
    for lesson in ledger.lessons("quarantined"):
        planted.update(planted_by(lesson))
    return Evidence(
        tuple(secrets[digest] for digest in sorted(secrets)),
        tuple(sorted(planted)),
        _leaks(ledger, secrets) if secrets else None,
    )


def secrets_in(turn: Turn, salt: bytes) -> Iterator[Secret]:
    """Yield the secrets of what a turn added: replaced ones, and those that stand there."""
    for message in turn.messages:
        yield from secrets_of(message.content, salt)


def secrets_of(text: str, salt: bytes) -> Iterator[Secret]:
    """Yield the secrets of a text: replaced ones, and those that stand there; `salt` as kept."""
    for found in MARK.finditer(text):
        yield Secret(found["digest"].lower(), found["kind"].lower(), _before(text, found.start()))
    for item in find_secrets(text):
        digest = digest_of(text[item.start : item.end], salt)
        yield Secret(digest, item.kind, _before(text, item.start))


def _words(lesson: Lesson) -> str:
    return f"{lesson.statement}\n{lesson.value}"


def _before(text: str, place: int) -> str:
    """Return what stands before a secret, without others."""
    before = MARK.sub("", text[:place])
    pieces, end = [], 0
    for item in find_secrets(before):
        pieces.append(before[end : item.start])
        end = item.end
    return "".join([*pieces, before[end:]])[-BEFORE:]


def planted_in(turn: Turn) -> Iterator[Planted]:
    """Yield what tools, files and web pages of a turn would have the model say."""
    for message in turn.messages:
        foreign = "" if message.role == "assistant" else message.content
        if message.role == "system":
            continue
        if may_teach(message.provenance):
            _, foreign = told_by(message, turn.conversation)
        yield from orders_in(foreign[:LONGEST])
        yield from claims_in(foreign[:LONGEST])


def planted_by(lesson: Lesson) -> Iterator[Planted]:
    """Yield what a lesson in quarantine would teach."""
    orders = list(orders_in(lesson.statement))
    yield from orders
    if not orders and lesson.value:
        yield Planted(lesson.value, subject=lesson.subject)


def orders_in(text: str) -> Iterator[Planted]:
    """Yield the orders of the form "when you see X, say Y"."""
    for found in _ORDER.finditer(text):
        trigger, payload = found["when"], found["say"]
        quoted = [_INNER.search(part) for part in (trigger, payload)]
        trigger = quoted[0]["text"] if quoted[0] else _TRIGGER.sub("", trigger, count=1)
        payload = quoted[1]["text"] if quoted[1] else payload
        if trigger.strip() and re.search(r"\w", payload):
            yield Planted(payload.strip(" \"'"), trigger.strip())


def claims_in(text: str) -> Iterator[Planted]:
    """Yield what is told in a foreign text as if the owner had said it."""
    for line in text.splitlines():
        if not _CLAIMING.search(line):
            continue
        for item in read_message(line[:500]):
            if isinstance(item, Claim) and item.subject:
                yield Planted(item.value, subject=item.subject)


def _leaks(ledger: Ledger, more: Collection[str]) -> Callable[[str], bool]:
    """Return what says whether a text has a secret of the ledger, replaced or in the clear."""
    salt, digests = ledger.salt, ledger.secret_digests() | frozenset(more)
    return lambda text: reproduced(text, salt, digests)


def without(planted: Iterable[Planted], values: frozenset[str]) -> list[Planted]:
    """Leave out what only says what the owner said too."""
    return [item for item in planted if item.payload.casefold() not in values]
