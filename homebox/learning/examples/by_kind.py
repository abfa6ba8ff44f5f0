"""Questions that follow from the kind of what is asked for: "When is my lunch?" asks for a time.

The one idea: people name a thing by its noun, or ask for it with the word that its kind goes with.
The built-in model's language has such questions for some topics only, so lessons bring their own.
"""

from homebox.language.phrasing import fill
from homebox.language.relation import Relation

_BY_KIND = {
    "time": (
        *("When is {n}?", "At what time is {n}?", "What time is {n}?"),
        *("When do I have {n}?", "At what time do I have {n}?"),
    ),
    "date": ("When is {n}?", "On which date is {n}?", "On what date is {n}?"),
    "day": ("When is {n}?", "On which day is {n}?", "What day is {n}?"),
}
_TIME = " time"  # of "lunch time": what happens then is lunch
_MY = "{my} "


def questions_by_kind(relation: Relation) -> list[str]:
    """List such questions about the owner; none where no noun names the thing or no word goes."""
    forms = _BY_KIND.get(relation.kind, ())
    names = [name for noun in relation.nouns[:1] for name in _names(noun, relation.kind)]
    return [fill(form.replace("{n}", name), None) for name in names for form in forms]


def _names(noun: str, kind: str) -> list[str]:
    """List what a thing is called in such a question: "{my} lunch", and "lunch" too."""
    if kind != "time" or not noun.endswith(_TIME):
        return [noun]
    what = noun.removesuffix(_TIME)
    # "Ada's dinner" has whose it is in front already.
    return [what] if "'s " in what else [what, what.removeprefix(_MY)]


def questions_to_learn(relation: Relation) -> list[str]:
    """List what lessons ask about a relation of the owner."""
    known = relation.questions(None, "train")
    tested = {*relation.questions(None, "known"), *relation.questions(None, "held_out")}
    return known + [q for q in questions_by_kind(relation) if q not in tested and q not in known]
