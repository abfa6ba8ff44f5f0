"""Answers of the base that examples are written from, as one object of the store.

The one idea: what a job samples is sampled once and then named by its hash, so that who runs the
job again needs no luck with a sampler. Invariant: the object has no clock, and its entries are in
an order that only their content decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from homebox.learning.objects import StoredJson
from homebox.memory.store import canonical_json

Messages = list[dict[str, Any]]

SHIPPED, OWNED, STYLED, HINDSIGHT = "shipped", "owner", "preference", "hindsight"


@dataclass(frozen=True)
class Sample:
    """One answer of the base; `purpose` says what for, `about` names the lesson if there is one.

    `messages` are what it stands behind, as a student sees them: without the hint that the base
    was given.
    """

    purpose: str
    about: str
    messages: tuple[dict[str, Any], ...]
    answer: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "about": self.about,
            "answer": self.answer,
            "messages": list(self.messages),
            "purpose": self.purpose,
        }


@dataclass(frozen=True)
class Samples(StoredJson):
    """All answers of a run; build with `samples_of`, which brings them into canonical order."""

    called = "samples"

    base: str = ""  # hash of the model that answered
    all: tuple[Sample, ...] = ()

    def of(self, purpose: str, about: str | None = None) -> list[Sample]:
        """Return the samples of one purpose, and of one lesson if it is named."""
        found = self._by_purpose.get(purpose, [])
        return [sample for sample in found if about in (None, sample.about)]

    @cached_property
    def _by_purpose(self) -> dict[str, list[Sample]]:
        groups: dict[str, list[Sample]] = {}
        for sample in self.all:
            groups.setdefault(sample.purpose, []).append(sample)
        return groups

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"base": self.base, "samples": [sample.as_json() for sample in self.all]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Samples":
        """Rebuild it from `as_json`; raises TypeError or KeyError."""
        return cls(value["base"], tuple(_sample(content) for content in value["samples"]))


NO_SAMPLES = Samples()


def samples_of(base: str, samples: Iterable[Sample]) -> Samples:
    """Gather answers of one base; the same answer to the same thing is there once."""
    found = {canonical_json(sample.as_json()): sample for sample in samples}
    return Samples(base, tuple(found[name] for name in sorted(found)))


def _sample(content: dict[str, Any]) -> Sample:
    messages = content["messages"]
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise TypeError("messages must be a list of objects")
    return Sample(content["purpose"], content["about"], tuple(messages), str(content["answer"]))
