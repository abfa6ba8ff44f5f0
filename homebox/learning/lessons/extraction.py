"""Lessons that the model itself finds in the owner's words, if these words bear them out.

The one idea: the model only proposes. It reads nothing but clauses that the owner may be speaking
in (no quotations, code, questions or suppositions), answers greedily under a JSON schema, and of
what it proposes only that is kept whose value stands in one such clause in the first person.
Invariants: the statement and the value that are kept are the owner's words, letter by letter, never
the model's; each turn is read once, and a mark in the ledger says so; whatever a model answers, and
if it cannot answer at all, nothing is raised.
"""

import json
import re
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homebox.errors import EngineError, NoFreeSlotError, RequestError
from homebox.learning.lessons.harvest import EXTRACTED, FOREIGN, told_by
from homebox.learning.lessons.live import MODEL, LiveLessons
from homebox.learning.reading.clauses import LONGEST, owner_clauses
from homebox.learning.reading.guard import secret_in, suspicion
from homebox.learning.reading.remembering import command_of
from homebox.learning.reading.rules import may_claim
from homebox.learning.reading.told import cleaned
from homebox.learning.report import Progress
from homebox.memory.clients import CHAT
from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson
from homebox.memory.provenance import may_teach
from homebox.memory.turns import Turn
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.guides.wanted import JsonSchema, Wanted

LEAST_PARAMETERS = 400_000_000  # "auto": smaller models propose too little that is true
MOST_TURNS = 200  # of one run; the next run goes on
MOST_CLAUSES = 24  # of one turn
MOST_TOKENS = 256  # of one answer
STEP_SECONDS = 0.01
READ = 16  # ids of a prompt in one step
_LIMITS = {"subject": 60, "value": 120, "statement": 300}
SCHEMA: dict[str, Any] = {
    "type": "array",
    "maxItems": 6,
    "items": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["fact", "preference"]},
            "subject": {"type": "string", "minLength": 2, "maxLength": _LIMITS["subject"]},
            "value": {"type": "string", "minLength": 1, "maxLength": _LIMITS["value"]},
            "statement": {"type": "string", "minLength": 3, "maxLength": _LIMITS["statement"]},
        },
        "required": ["kind", "subject", "value", "statement"],
        "additionalProperties": False,
    },
}
_ORDER = (
    "You read what one person wrote and list what it tells about that person that stays true: "
    "facts and preferences. Answer with JSON: a list of objects with kind, subject, value and "
    "statement. The value is copied from the text. Answer [] if there is nothing."
)
_SHOWN = (
    ("Ever since we got Biscuit, our spaniel, I walk a lot.", "fact", "spaniel's name", "Biscuit"),
    ("I'm on the night shift at the port.", "fact", "shift", "night shift"),
)
_FIRST = re.compile(
    r"\b(?:i|i'm|i've|i'd|im|ive|my|me|mine|we|our|us|we've|we're)\b", re.IGNORECASE
)
_WORDS = re.compile(r"\w+")
_SUBJECT = re.compile(r"[^\W\d_][\w' -]{1,59}")


@dataclass(frozen=True)
class Proposal:
    """What the model said."""

    kind: str
    subject: str
    value: str
    statement: str


def wanted_of(model: Model, setting: str) -> bool:
    """Say whether lessons are to be extracted with a model; `setting` is auto, on or off."""
    return setting == "on" or (setting == "auto" and model.config.parameters >= LEAST_PARAMETERS)


def clauses_for(turn: Turn) -> list[str]:
    """Return the clauses of a turn that the model may read, in order."""
    if turn.kind != CHAT:
        return []
    found: list[str] = []
    for message in turn.messages:
        if message.role != "user" or not may_teach(message.provenance):
            continue
        typed, _ = told_by(message, turn.conversation)
        if command_of(typed)[0]:
            continue
        for clause in owner_clauses(typed):
            if not clause.question and _may_be_read(clause.text):
                found.append(clause.text)
    return found[:MOST_CLAUSES]


def _may_be_read(clause: str) -> bool:
    if len(clause) > LONGEST:
        return False  # nobody knows how it goes on
    first = _FIRST.search(clause) is not None
    return first and len(clause.split()) >= 3 and may_claim(clause) and not secret_in(clause)


def prompt_for(clauses: Sequence[str]) -> list[dict[str, Any]]:
    """Write the conversation whose next answer is the list of proposals."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": _ORDER}]
    for text, kind, subject, value in _SHOWN:
        shown = [{"kind": kind, "subject": subject, "value": value, "statement": text}]
        messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": json.dumps(shown)},
        ]
    return [*messages, {"role": "user", "content": "\n".join(clauses)}]


def proposals_in(answer: str) -> list[Proposal]:
    """Read the model's answer; what is no list of proposals gives none."""
    try:
        items = json.loads(answer)
    except (ValueError, RecursionError):
        return []
    found = []
    for item in items if isinstance(items, list) else []:
        texts = [(item.get(name), most) for name, most in _LIMITS.items()] if _maps(item) else []
        if texts and all(isinstance(text, str) and 0 < len(text) <= most for text, most in texts):
            kind = "preference" if item.get("kind") == "preference" else "fact"
            found.append(Proposal(kind, item["subject"], item["value"], item["statement"]))
    return found


def _maps(item: object) -> bool:
    return isinstance(item, Mapping)


def accepted(
    proposals: Sequence[Proposal], clauses: Sequence[str], turn: Turn, supported: bool = True
) -> list[Lesson]:
    """Return the lessons that the owner's clauses bear out.

    `supported` off believes the model; for control runs only.
    """
    found: dict[tuple[str, str], Lesson] = {}
    for item in proposals:
        value, subject = cleaned(item.value), " ".join(item.subject.split()).lower()
        subject = re.sub(r"^(?:my|the|owner's|user's) ", "", subject)
        said = ((text, _said(value, text)) for text in clauses)
        clause, own = next((found for found in said if found[1]), (None, ""))
        if supported and (clause is None or not _SUBJECT.fullmatch(subject)):
            continue
        statement = clause if clause is not None else item.statement
        value = own or value
        words = f"{subject} {value} {statement}"
        if not value or len(value.split()) > 8 or (supported and secret_in(words)):
            continue
        reason = suspicion(words) or ""
        found[subject, value.casefold()] = Lesson(
            kind=item.kind,
            subject=subject,
            statement=" ".join(statement.split()),
            value=value,
            sources=(turn.id,),
            state="quarantined" if reason else "new",
            time=turn.time,
            origin=MODEL,
            reason=reason,
        )
    return list(found.values())


def _said(value: str, clause: str) -> str:
    """Return how a clause itself writes a value whose words stand in it in a row; "" if none do."""
    wanted = [word.casefold() for word in _WORDS.findall(value)]
    if not wanted:
        return ""
    exact = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", clause, re.IGNORECASE)
    if exact is not None:
        return exact[0]
    words = list(_WORDS.finditer(clause))
    for at in range(len(words) - len(wanted) + 1):
        row = words[at : at + len(wanted)]
        if [word[0].casefold() for word in row] == wanted:
            return clause[row[0].start() : row[-1].end()]
    return ""


def extract(
    model: Model, ledger: Ledger, live: LiveLessons, most: int = MOST_TURNS
) -> Generator[Progress, None, int]:
    """Read turns that the model has not read yet; keeps and counts what it finds.

    Every `next` is one micro-step on the thread that owns the model.
    """
    done = ledger.marks(EXTRACTED)
    turns = [turn for turn in ledger.turns() if f"{EXTRACTED}{turn.id}" not in done]
    count = read = 0
    kept = None
    for number, turn in enumerate(turns):
        clauses = clauses_for(turn)
        # What the rules have read needs no model.
        if clauses and not live.told_in(turn.id):
            if read == most:
                break
            read += 1
            yield Progress("select", number, len(turns), "reading what the rules did not")
            try:
                answer = yield from _answer(model, prompt_for(clauses))
            except EngineError:
                break  # the next run tries again; what the rules have read is there all the same
            lessons = [
                live.checked(lesson, turn.conversation or turn.id, FOREIGN)
                for lesson in accepted(proposals_in(answer), clauses, turn)
            ]
            live.extracted({turn.id: lessons})
            count += len(lessons)
        kept = ledger.set_mark(f"{EXTRACTED}{turn.id}", 1)
    if kept is not None:
        kept.result()  # they are written in order, so all are there
    return count


def _answer(model: Model, messages: list[dict[str, Any]]) -> Generator[Progress, None, str]:
    """Answer greedily under the schema; an empty answer where that cannot be."""
    progress = Progress("select", 0, 1, "reading what the rules did not")
    try:
        # A template may know no system message, a vocabulary no grammar.
        prompt = model.chat.render(messages)
        room = model.context - len(prompt)
        if room < MOST_TOKENS // 4:
            return ""
        guide = model.guide(Wanted(form=JsonSchema(SCHEMA)))
    except RequestError:
        return ""
    sampling = SamplingParams(max_tokens=min(MOST_TOKENS, room))
    request = GenerationRequest(prompt, sampling, guide=guide)
    while True:
        try:
            sequence = model.start(request)
            break
        except NoFreeSlotError:
            yield progress
    pieces = []
    begun = time.perf_counter()
    try:
        while not sequence.finished:
            piece = sequence.step(READ)
            if piece is not None:
                pieces.append(piece.text)
            if model.interrupt.is_set() or time.perf_counter() - begun > STEP_SECONDS:
                yield progress
                begun = time.perf_counter()
    finally:
        sequence.close()
    return "".join(pieces)
