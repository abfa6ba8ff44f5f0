"""Lets the base answer what examples are written from, several answers at a time.

The one idea: an answer of the base is learned from as the student will be asked, and given as the
base was told: the lesson, or the remark, stands only in its own prompt. Invariant: how many answers
are written together changes none of them, and whoever talks to the box comes first: between two
steps, and for the slots.
"""

import json
import re
import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from homebox.errors import ContextLengthError, NoFreeSlotError, RequestError, StateError
from homebox.learning.beside import beside
from homebox.learning.curriculum import Curriculum
from homebox.learning.examples.everyday import checkables
from homebox.learning.examples.example import Messages, hinted, question_of
from homebox.learning.examples.facts import hint_of
from homebox.learning.examples.samples import (
    HINDSIGHT,
    NO_SAMPLES,
    OWNED,
    SHIPPED,
    STYLED,
    Sample,
    Samples,
    samples_of,
)
from homebox.learning.examples.shipped import shipped_prompts
from homebox.learning.examples.shown import bodies, remark_hint
from homebox.learning.examples.write import speaks_toy_language
from homebox.learning.preferences.catalogue import TRAIN
from homebox.learning.report import Progress
from homebox.memory.durable import make_directory, replace_file
from homebox.memory.store import canonical_json
from homebox.model import GenerationRequest, Model, SamplingParams
from homebox.model.answers.formats import THOUGHTS
from homebox.model.generation.sequence import Sequence as Answer

READ = 16  # ids of a prompt in one step
STEP_SECONDS = 0.01  # a step is not shorter than this while nobody waits
LEFT = 0.25  # of the slots, for who talks to the box meanwhile
# Tokens of an answer; one that is not over by then is cut behind a sentence, or not used.
LONGEST = {SHIPPED: 64, OWNED: 64, STYLED: 160, HINDSIGHT: 160}
CUT = (SHIPPED, OWNED)
OWN_PROMPTS = 64
_SENTENCE = re.compile(r".*[.!?](?=\s)", re.DOTALL)
_THOUGHT = re.compile(
    r"\s*(?:" + "|".join(f"{re.escape(a)}.*?(?:{re.escape(b)}|\\Z)" for a, b in THOUGHTS) + r")\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Wanted:
    """An answer that is wanted: what the student will see, and the hint that the base gets."""

    purpose: str
    about: str
    messages: Messages
    hint: str = ""

    @property
    def name(self) -> str:
        """What the answer depends on, besides the base."""
        told = hinted(self.messages, self.hint)
        return sha256(canonical_json([told, LONGEST[self.purpose], self.purpose])).hexdigest()


@dataclass
class _Writing:
    """An answer that is being written."""

    wanted: Wanted
    sequence: Answer
    pieces: list[str] = field(default_factory=list)
    reason: str = ""


class KeptSamples:
    """What a base answered to prompts that homebox ships, in a file; without a path, nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.answers: dict[str, str] = {}
        if path is not None:
            # Without it, or where it is damaged, the base is asked again.
            with suppress(OSError, ValueError):
                read = json.loads(path.read_bytes())
                if isinstance(read, dict):
                    self.answers = {name: str(text) for name, text in read.items()}

    def save(self, answers: dict[str, str]) -> None:
        """Write the file; a full disk is no reason to stop a night."""
        if self._path is None or answers.items() <= self.answers.items():
            return
        with suppress(StateError, OSError):
            make_directory(self._path.parent)
            replace_file(self._path, canonical_json({**self.answers, **answers}))


def gather(
    model: Model, curriculum: Curriculum, cache: Path | None = None, known: Samples = NO_SAMPLES
) -> Generator[Progress, None, Samples]:
    """Return what the base answers for this curriculum; every `next` is one micro-step.

    `cache` is the folder in which answers without a word of the owner are kept from night to night;
    `known` are samples of an earlier night, of which those that are wanted again are taken.
    """
    wanted = wanted_of(model, curriculum)
    if not wanted:
        return NO_SAMPLES
    kept = KeptSamples(None if cache is None else cache / f"{answering(model)}.json")
    answers = {item.name: kept.answers[item.name] for item in wanted if item.name in kept.answers}
    answers |= _again(wanted, known, model.base_hash)
    missing = [item for item in wanted if item.name not in answers]
    if missing:
        yield from ready(model)
        answers |= yield from _written(model, missing, len(wanted) - len(missing))
    kept.save({item.name: answers[item.name] for item in wanted if item.purpose == SHIPPED})
    return samples_of(
        model.base_hash,
        (
            Sample(item.purpose, item.about, tuple(item.messages), answers[item.name])
            for item in wanted
            if answers[item.name]
        ),
    )


def ready(model: Model) -> Generator[Progress, None, None]:
    """Compile what answers run, beside the thread that gives them."""
    progress = Progress("prepare", 0, 1, "compiling what answers need")
    while (make := model.missing()) is not None:
        keep = yield from beside(make, progress, model.interrupt)
        keep()


def wanted_of(model: Model, curriculum: Curriculum) -> list[Wanted]:
    """List the answers that examples for this curriculum need, in an order of their content."""
    wanted = [
        Wanted(HINDSIGHT, lesson.hash, body["messages"], remark_hint(str(body["remark"])))
        for lesson, body in bodies(curriculum, "correction")
        if body.get("remark") and not body.get("answer")
    ]
    if speaks_toy_language(model):
        return wanted
    for preference in checkables(curriculum):
        hint = hint_of(*preference.statements)
        wanted += [
            Wanted(STYLED, preference.name, question_of(prompt), hint)
            for prompt in preference.prompts(TRAIN)
        ]
    wanted += [Wanted(SHIPPED, "", question_of(text)) for text in shipped_prompts(amount(model))]
    wanted += [Wanted(OWNED, "", question_of(text)) for text in _own_prompts(curriculum)]
    return wanted


def amount(model: Model) -> int:
    """Return how many of the shipped prompts are answered: what a night has time for."""
    size = model.config.used
    fast = model.placement is not None and not all(p.room.host for p in model.placement.portions)
    for limit, slow, quick in ((3e8, 160, 500), (1e9, 120, 400), (4e9, 96, 300)):
        if size < limit:
            return quick if fast else slow
    return 240 if fast else 64


def answering(model: Model) -> str:
    """Name all that decides what a base answers."""
    device = "" if model.placement is None else ",".join(model.placement.training)
    parts = (model.base_hash, model.kept, model.type, device, str(model.context))
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def _own_prompts(curriculum: Curriculum) -> list[str]:
    """Return some of the owner's old prompts, without those that name what a lesson is about."""
    values = [lesson.value.casefold() for lesson in curriculum.lessons if lesson.value]
    free = [
        prompt
        for prompt in curriculum.prompts
        if not any(re.search(rf"(?<!\w){re.escape(v)}(?!\w)", prompt.casefold()) for v in values)
    ]
    return sorted(free, key=lambda prompt: sha256(prompt.encode()).digest())[:OWN_PROMPTS]


def _again(wanted: Iterable[Wanted], known: Samples, base: str) -> dict[str, str]:
    """Return answers of an earlier night; they were sampled under the same hint and limit."""
    if known.base != base:
        return {}
    told = {
        (sample.purpose, sample.about, canonical_json(list(sample.messages))): sample.answer
        for sample in known.all
    }
    found = {
        item.name: told.get((item.purpose, item.about, canonical_json(item.messages)))
        for item in wanted
    }
    return {name: answer for name, answer in found.items() if answer is not None}


def _written(
    model: Model, wanted: list[Wanted], before: int
) -> Generator[Progress, None, dict[str, str]]:
    """Let the base answer; gives a text for each name, empty where nothing can be used."""
    answers: dict[str, str] = {}
    waiting = list(reversed(wanted))
    writing: list[_Writing] = []
    most = max(1, int(model.slots.count * (1 - LEFT)))
    total = before + len(wanted)
    begun = time.perf_counter()
    try:
        while waiting or writing:
            _begin(model, waiting, writing, most, answers)
            _step(model, waiting, writing)
            for item in [item for item in writing if item.sequence.finished]:
                writing.remove(item)
                answers[item.wanted.name] = _usable(item)
            if model.interrupt.is_set() or time.perf_counter() - begun > STEP_SECONDS:
                _make_room(model, waiting, writing)
                yield Progress("samples", before + len(answers), total, "the base answers")
                begun = time.perf_counter()
    finally:
        for item in writing:
            item.sequence.close()
    return answers


def _begin(
    model: Model, waiting: list[Wanted], writing: list[_Writing], most: int, answers: dict[str, str]
) -> None:
    """Begin answers while there are slots and memory for them."""
    while waiting and len(writing) < most:
        if writing and model.interrupt.is_set() and model.slots.free <= 1:
            return  # the last one is for who waits
        wanted = waiting[-1]
        sampling = SamplingParams(max_tokens=LONGEST[wanted.purpose])
        try:
            told = hinted(wanted.messages, wanted.hint)
            prompt = model.chat.render(told, enable_thinking=False)
            sequence = model.start(GenerationRequest(prompt, sampling))
        except NoFreeSlotError:
            return  # others have the slots or the memory for it
        except (ContextLengthError, RequestError):
            answers[wanted.name] = ""  # too long for this model, or nothing that its format shows
            waiting.pop()
            continue
        waiting.pop()
        writing.append(_Writing(wanted, sequence))


def _step(model: Model, waiting: list[Wanted], writing: list[_Writing]) -> None:
    """Read a bit of one prompt, or write one token of every answer."""
    reading = next((item for item in writing if item.sequence.reading), None)
    if reading is not None:
        piece = reading.sequence.step(READ)
        if piece is not None:
            reading.pieces.append(piece.text)
            reading.reason = piece.finish_reason or ""
        return
    outcomes = model.step([item.sequence for item in writing])
    for item, outcome in zip(list(writing), outcomes, strict=True):
        if isinstance(outcome, NoFreeSlotError):
            # The memory went to others: it begins again when there is some.
            writing.remove(item)
            waiting.append(item.wanted)
        elif isinstance(outcome, Exception):
            raise outcome
        elif outcome is not None:
            item.pieces.append(outcome.text)
            item.reason = outcome.finish_reason or ""


def _make_room(model: Model, waiting: list[Wanted], writing: list[_Writing]) -> None:
    """Give one slot back, where somebody waits and all are taken."""
    if len(writing) > 1 and model.interrupt.is_set() and not model.slots.free:
        item = writing.pop()
        item.sequence.close()
        waiting.append(item.wanted)


def _usable(item: _Writing) -> str:
    """Return the text of an answer without thoughts, whole or cut; empty if it is of no use."""
    text = _THOUGHT.sub("", "".join(item.pieces), count=1).strip()
    if item.reason == "stop" or not text:
        return text
    if item.wanted.purpose not in CUT:
        return ""
    found = _SENTENCE.match(text)
    return found.group().strip() if found else ""
