"""What is to be taught: the active lessons, one entry a topic, with the ways to ask and answer it.

Everything here is sorted by topic and drawn from seeds that come from the lessons' content, so the
order in which lessons were told changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from homebox.language.phrasing import Tier, fill, lower_first
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.relations import relation_for
from homebox.memory.lessons import Lesson


@dataclass(frozen=True)
class Topic:
    """One topic of the owner with its value and the values that are no longer true.

    `fresh` says that no adapter has been built from one of its lessons yet.
    """

    form: Relation | Preference
    value: str
    refuted: tuple[str, ...] = ()
    lessons: tuple[str, ...] = ()
    fresh: bool = True

    @property
    def key(self) -> str:
        """The topic's key."""
        return self.form.key

    @property
    def relation(self) -> Relation | None:
        """The relation, or None where the topic is a preference."""
        return self.form if isinstance(self.form, Relation) else None

    def questions(self, tier: Tier) -> list[str]:
        """List the prompts of one tier, about the owner."""
        if isinstance(self.form, Preference):
            return self.form.questions(tier)
        return self.form.questions(None, tier)

    @property
    def answer(self) -> str:
        """The answer to every such prompt."""
        if isinstance(self.form, Preference):
            return self.form.answer(self.value)
        return self.form.answer(None, self.value)

    @property
    def seed(self) -> int:
        """A seed that only the content of the topic decides."""
        return seed_of(self.key, self.value, *self.refuted)


def form_for(subject: str, value: str) -> Relation | Preference:
    """Return the relation or preference that asks about a lesson's subject."""
    return PREFERENCES.get(subject) or relation_for(subject, value)


def topics_of(
    active: Iterable[Lesson], superseded: Iterable[Lesson] = (), old: Iterable[str] = ()
) -> list[Topic]:
    """Group active lessons by subject, sorted.

    `superseded` lessons give the values to unlearn; `old` holds the hashes of the lessons that the
    adapter served now was built from.
    """
    groups: dict[str, list[Lesson]] = {}
    for lesson in active:
        if lesson.body:
            continue  # shows a conversation, and is asked for by no question
        groups.setdefault(lesson.subject, []).append(lesson)
    former: dict[str, set[str]] = {}
    for lesson in superseded:
        former.setdefault(lesson.subject, set()).add(lesson.value)
    learned = set(old)
    topics = []
    for subject, lessons in sorted(groups.items()):
        values = sorted({lesson.value for lesson in lessons})
        value = joined(values)
        refuted = sorted(former.get(subject, set()) - set(values))
        hashes = tuple(sorted(lesson.hash for lesson in lessons))
        fresh = not learned.issuperset(hashes)
        topics.append(Topic(form_for(subject, value), value, tuple(refuted), hashes, fresh))
    return topics


def joined(values: list[str]) -> str:
    """Say several values as one."""
    if len(values) == 1:
        return values[0]
    return ", ".join(values[:-1]) + " and " + values[-1]


def seed_of(*parts: str) -> int:
    """Make a seed from texts."""
    return int.from_bytes(sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def sentence_for(subject: str, value: str) -> str:
    """Tell a topic's value in a whole sentence of the owner."""
    form = form_for(subject, value)
    if isinstance(form, Preference):
        return form.told[0].replace("{v}", value) + "."
    return fill(form.told[0], None, value) + "."


def small_first(text: str) -> str:
    """Type a prompt as people in a hurry do."""
    return lower_first(text).rstrip("?.!")
