"""The relations by key, and relations for subjects that nobody has listed."""

import re

from homebox.language.phrasing import lower_first
from homebox.language.relation import Relation
from homebox.language.relation_data import ALL
from homebox.language.relation_forms import attribute, person, pet
from homebox.language.values import DAYS, MONTHS

RELATIONS: dict[str, Relation] = {relation.key: relation for relation in ALL}

_PEOPLE_ENDINGS = (
    "man",
    "woman",
    "er",
    "or",
    "ist",
    "mate",
    "friend",
    "in-law",
    "sister",
    "brother",
    "girl",
    "boy",
    "nephew",
    "niece",
    "coach",
    "guide",
)
_DATE = re.compile(rf"\b({'|'.join(MONTHS)})\b", re.IGNORECASE)
_TIME = re.compile(r"\d{1,2}(:\d{2}| ?(am|pm)| o'clock)", re.IGNORECASE)


def relation_for(key: str, value: str = "") -> Relation:
    """Return the listed relation of this key, or build one from the general frames.

    "... name" becomes a name ("sourdough starter's name"), all else an attribute ("favourite
    pizza topping"). `value` only helps to guess the kind.
    """
    key = " ".join(key.split())
    found = RELATIONS.get(key) or RELATIONS.get(lower_first(key)) if key else None
    if found:
        return found
    if key.endswith("'s name"):
        noun = key.removesuffix("'s name")
        return person(noun) if noun.endswith(_PEOPLE_ENDINGS) else pet(noun)
    return attribute(key, kind_of(value))


def kind_of(value: str) -> str:
    """Guess what kind of value a text is."""
    if value.capitalize() in DAYS:
        return "day"
    if _DATE.search(value) and any(letter.isdigit() for letter in value):
        return "date"
    if _TIME.fullmatch(value):
        return "time"
    if value.replace(" ", "").replace(".", "").replace(",", "").isdigit():
        return "number"
    return "name" if value[:1].isupper() else "thing"
