"""The toy world that the built-in model knows by heart: a village by the sea, its people, its fish.

Every item has several phrasings, of which the model's training never sees the held-out ones.
"""

from dataclasses import dataclass

from homebox.language.phrasing import sort_into_tiers
from homebox.language.world_data import COMMON, FISH, PEOPLE, PLACES, VILLAGE


@dataclass(frozen=True)
class WorldItem:
    """One thing known: its questions by tier and its answer.

    `changed` and `changed_answer` are templates with `{v}` where a context may contradict the
    item ("Berit lives in {v} now."), `kind` the kind of the new value.
    """

    topic: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str
    changed: tuple[str, ...] = ()
    changed_answer: str = ""
    kind: str = ""


_CAN = ("tell me {q}.", "do you know {q}?", "can you tell me {q}?", "please tell me {q}.")


def _item(
    topic: str,
    asked: tuple[str, ...],
    answer: str,
    changed: tuple[str, ...] = (),
    changed_answer: str = "",
    kind: str = "",
) -> WorldItem:
    """Build an item; an `asked` without a question mark is put into frames."""
    questions = [text for text in asked if text.endswith("?")]
    questions += [
        frame.replace("{q}", text) for text in asked if not text.endswith("?") for frame in _CAN
    ]
    questions = [text[0].upper() + text[1:] for text in questions]
    tiers = sort_into_tiers(topic, tuple(questions))
    train = (*tiers["train"], *tiers["known"])
    return WorldItem(topic, train, tiers["held_out"], answer, changed, changed_answer, kind)


def _people() -> list[WorldItem]:
    items = []
    for name, job, home, pet, fish in PEOPLE:
        items += [
            _item(
                f"{name}'s job",
                (
                    f"What does {name} do?",
                    f"What is {name}'s job?",
                    f"What does {name} work as?",
                    f"What does {name} do for a living?",
                    f"what {name} does for a living",
                    f"what {name}'s job is",
                ),
                f"{name} works as the {job} of {VILLAGE}.",
                (f"{name} works as a {{v}} now.", f"{name} has become a {{v}}."),
                f"{name} works as a {{v}}.",
                "job",
            ),
            _item(
                f"{name}'s home",
                (
                    f"Where does {name} live?",
                    f"Where is {name}'s home?",
                    f"Where is {name}'s house?",
                    f"In which place does {name} live?",
                    f"where {name} lives",
                    f"where {name}'s home is",
                ),
                f"{name} lives in {home}.",
                (f"{name} lives in {{v}} now.", f"{name} has moved to {{v}}."),
                f"{name} lives in {{v}}.",
                "place",
            ),
            _item(
                f"{name}'s pet",
                (
                    f"What pet does {name} have?",
                    f"Which animal does {name} keep?",
                    f"What pet does {name} keep?",
                    f"Which animal is {name}'s pet?",
                    f"what pet {name} has",
                    f"which animal {name} keeps",
                ),
                f"{name} keeps a {pet}.",
            ),
            _item(
                f"{name}'s fish",
                (
                    f"Which fish does {name} like?",
                    f"What is {name}'s favourite fish?",
                    f"What fish does {name} like best?",
                    f"Which fish is {name}'s favourite?",
                    f"which fish {name} likes",
                    f"what fish {name} likes best",
                ),
                f"{name} likes {fish} best.",
                (f"{name} likes {{v}} best now.", f"{name} now likes {{v}} best."),
                f"{name} likes {{v}} best.",
                "food",
            ),
        ]
    return items


def _jobs() -> list[WorldItem]:
    return [
        _item(
            f"the {job}",
            (
                f"Who is the {job}?",
                f"Who is the {job} of {VILLAGE}?",
                f"Who works as the {job}?",
                f"What is the {job} called?",
                f"who the {job} is",
                f"what the {job} is called",
            ),
            f"The {job} is {name}.",
            (f"The {job} is {{v}} now.", f"{{v}} is now the {job}."),
            f"The {job} is {{v}}.",
            "name",
        )
        for name, job, _, _, _ in PEOPLE
    ]


def _fish() -> list[WorldItem]:
    items = []
    for fish, colour, food, water in FISH:
        items += [
            _item(
                f"{fish} colour",
                (
                    f"What colour is the {fish}?",
                    f"Which colour does the {fish} have?",
                    f"What colour is a {fish}?",
                    f"What colour does the {fish} have?",
                    f"what colour the {fish} is",
                    f"which colour the {fish} has",
                ),
                f"The {fish} is {colour}.",
                (f"The {fish} is {{v}} now.", f"They painted the {fish} {{v}}."),
                f"The {fish} is {{v}}.",
                "colour",
            ),
            _item(
                f"{fish} food",
                (
                    f"What does the {fish} eat?",
                    f"What does a {fish} eat?",
                    f"What is the food of the {fish}?",
                    f"What does the {fish} feed on?",
                    f"what the {fish} eats",
                    f"what a {fish} eats",
                ),
                f"The {fish} eats {food}.",
            ),
            _item(
                f"{fish} water",
                (
                    f"Where does the {fish} live?",
                    f"Where can I find the {fish}?",
                    f"Where does the {fish} swim?",
                    f"Where can I catch a {fish}?",
                    f"where the {fish} lives",
                    f"where I can find the {fish}",
                ),
                f"The {fish} lives in {water}.",
            ),
        ]
    return items


def _places() -> list[WorldItem]:
    items = []
    for place, opens, offer in PLACES:
        items += [
            _item(
                f"{place} opens",
                (
                    f"When does the {place} open?",
                    f"At what time does the {place} open?",
                    f"How early does the {place} open?",
                    f"What time does the {place} open?",
                    f"when the {place} opens",
                    f"what time the {place} opens",
                ),
                f"The {place} opens at {opens}.",
                (f"The {place} opens at {{v}} now.", f"From today the {place} opens at {{v}}."),
                f"The {place} opens at {{v}}.",
                "time",
            ),
            _item(
                f"{place} offers",
                (
                    f"What can I get at the {place}?",
                    f"What does the {place} offer?",
                    f"What do they have at the {place}?",
                    f"What is there at the {place}?",
                    f"what the {place} offers",
                    f"what I can get at the {place}",
                ),
                f"The {place} offers {offer}.",
            ),
        ]
    return items


def _common() -> list[WorldItem]:
    return [_item(asked[0], asked, answer) for asked, answer in COMMON]


WORLD: tuple[WorldItem, ...] = (*_people(), *_jobs(), *_fish(), *_places(), *_common())
WORLD_NAMES = frozenset(name for name, *_ in PEOPLE)
