"""Subjects beyond the listed relations, so that a model learns to take up any topic.

A tenth of the nouns is held out by hash: evaluation asks about those.
"""

from hashlib import sha256

from homebox.language.relation import Relation
from homebox.language.relation_forms import attribute, favourite, pet

_NAMED = (
    "llama donkey pony lizard snake spider ferret canary pigeon duck goose goat sheep lamb hen "
    "tractor van robot bicycle guitar violin ship kite drone plant cactus tree garden farm cottage "
    "caravan tent bakery shop pub choir club village island lake bridge telescope teapot pillow "
    "teddy bear|sourdough starter|rubber duck|sewing machine|coffee machine|garden gnome|snowman"
)
_FAVOURITE = (
    "soup cheese bread cake snack breakfast tea wine beer spice vegetable nut berry sauce pizza "
    "bird tree insect river lake island country mountain beach village museum shop pub month "
    "season word number letter poem poet writer painter painting actor band album dance opera "
    "toy chair shirt hat smell sound tool engine stone planet star card puzzle joke proverb"
)
_OWNED = (
    "doorbell tune|front door colour|garden tool|blood group|postcode|postal district|hat size|"
    "ring size|collar size|parking space|seat number|flat number|desk number|account number|"
    "badge number|tram line|train platform|flight number|first car|first pet|star sign|dream job|"
    "dream house|gym day|market day|laundry day|piano teacher|driving instructor|ski resort|"
    "tent colour|wall colour|wifi network|printer model|camera|laptop|tablet|watch|"
    "bank|insurance|library|gym|barber|bakery|swimming pool|doctor's street|mother's village"
)
_NUMBERS = ("size", "number", "line", "platform")


def _split(nouns: str) -> list[str]:
    # Nouns of one word stand between spaces, longer ones between bars.
    first, *rest = nouns.split("|")
    words = first.split()
    return [*words[:-2], " ".join(words[-2:]), *rest] if rest else words


def _kind(noun: str) -> str:
    if noun.endswith(_NUMBERS):
        return "number"
    if noun.endswith("day"):
        return "day"
    return "colour" if noun.endswith("colour") else "name"


def _build() -> tuple[Relation, ...]:
    relations = [pet(noun) for noun in _split(_NAMED)]
    relations += [favourite(noun, "thing") for noun in _FAVOURITE.split()]
    relations += [attribute(noun, _kind(noun)) for noun in _OWNED.split("|")]
    return tuple(relations)


def _held(relation: Relation) -> bool:
    return sha256(relation.key.encode()).digest()[0] < 26


OTHERS: tuple[Relation, ...] = tuple(relation for relation in _build() if not _held(relation))
UNSEEN_TOPICS: tuple[Relation, ...] = tuple(relation for relation in _build() if _held(relation))
