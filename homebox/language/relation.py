"""One thing that people say of themselves: how it is told, asked, answered and not known.

A relation composes its questions from a few sentences of its own and from the frames of
`phrasing`. Every question belongs to one tier, decided by its template alone: `train` may be used
by any training, `known` only by the base model's, `held_out` by none.
"""

from dataclasses import dataclass, field
from functools import cached_property

from homebox.language.phrasing import (
    CLAUSE_FRAMES,
    LEADS,
    NOUN_FRAMES,
    Tier,
    contracted,
    fill,
    lower_first,
    sort_into_tiers,
    takes_lead,
)

SOMETHING = "something you have not told me"


@dataclass(frozen=True)
class Relation:
    """A relation between a person and one value; all texts are templates of `phrasing`.

    `loose` are ways to tell it that are understood, but not written, because they prove little
    ("my dog is Quark") or are rare.
    """

    key: str
    kind: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    clauses: tuple[str, ...]
    nouns: tuple[str, ...]
    reply: str
    missing: str = SOMETHING
    yes_no: str | None = None
    loose: tuple[str, ...] = field(default=())
    owner_only: bool = False

    @cached_property
    def question_templates(self) -> dict[Tier, tuple[str, ...]]:
        """All question templates by tier."""
        templates = list(self.asked)
        templates += [frame.replace("{q}", q) for q in self.clauses for frame in CLAUSE_FRAMES]
        templates += [frame.replace("{n}", n) for n in self.nouns for frame in NOUN_FRAMES]
        return sort_into_tiers(self.key, tuple(dict.fromkeys(templates)))

    def questions(self, who: str | None, tier: Tier) -> list[str]:
        """List the questions of one tier about the owner (None) or a named person."""
        return [fill(template, who) for template in self.question_templates[tier]]

    def statements(self, who: str | None, value: str) -> list[str]:
        """List ways to tell the value: plain, contracted, and with the leads that people use."""
        plain = [fill(form, who, value) + "." for form in self.told]
        short = [text for text in (contracted(sentence) for sentence in plain) if text]
        keep = (value,) if who is None else (value, who)
        led = [
            with_lead(LEADS[1 + (index + len(self.key)) % (len(LEADS) - 1)], sentence, keep)
            for index, sentence in enumerate(plain)
            if takes_lead(sentence)
        ]
        small = [lower_first(sentence, keep) for sentence in plain]
        return list(dict.fromkeys([*plain, *short, *led, *small]))

    def answer(self, who: str | None, value: str) -> str:
        """Say the value, beginning with the topic."""
        return fill(self.reply, who, value) + "."

    def untold(self, who: str | None) -> str:
        """Say, beginning with the topic, that the value has not been told."""
        return self.answer(who, self.missing)

    def opening(self, who: str | None) -> str:
        """Return the part of every answer that stands before the value."""
        return fill(self.reply, who).split("{v}")[0]


def with_lead(lead: str, sentence: str, keep: tuple[str, ...]) -> str:
    """Put a lead such as "By the way, {s}" before a sentence."""
    if lead == "{s}":
        return sentence
    return lead.replace("{s}", lower_first(sentence, keep))
