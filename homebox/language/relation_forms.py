"""Builders of relations that share their wording: names of somebody, and attributes.

They also serve relations that nobody has listed: "sourdough starter's name" is built as a name,
"favourite pizza topping" as an attribute.
"""

from homebox.language.phrasing import article
from homebox.language.relation import Relation


def pet(noun: str) -> Relation:
    """Build the name of an animal or of a thing that people give names to."""
    one = article(noun)
    return Relation(
        key=f"{noun}'s name",
        kind="name",
        told=(
            f"{{my}} {noun}'s name is {{v}}",
            f"{{my}} {noun} is called {{v}}",
            f"{{my}} {noun} is named {{v}}",
            f"{{I have/has}} {one} called {{v}}",
            f"{{I have/has}} {one} named {{v}}",
            f"the name of {{my}} {noun} is {{v}}",
            f"{{I call/calls}} {{own}} {noun} {{v}}",
        ),
        loose=(
            f"{{v}} is the name of {{my}} {noun}",
            f"{{v}} is {{my}} {noun}",
            f"{{my}} {noun} is {{v}}",
            f"{{v}} is {{my}} {noun}'s name",
        ),
        asked=(
            f"what is {{my}} {noun} called?",
            f"what's {{my}} {noun} called?",
            f"what {{do I/does}} call {{own}} {noun}?",
            f"which name does {{my}} {noun} have?",
            f"how is {{my}} {noun} called?",
        ),
        clauses=(f"what {{my}} {noun} is called", f"what {{my}} {noun}'s name is"),
        nouns=(f"{{my}} {noun}'s name", f"the name of {{my}} {noun}"),
        reply=f"{{your}} {noun}'s name is {{v}}",
        yes_no=f"is {{my}} {noun} called {{v}}?",
    )


def person(noun: str, only: bool = False) -> Relation:
    """Build the name of somebody; `only` where nobody has two (a mother)."""
    one = article(noun)
    several = (
        () if only else (f"{{I have/has}} {one} called {{v}}", f"{{I have/has}} {one} named {{v}}")
    )
    return Relation(
        key=f"{noun}'s name",
        kind="name",
        told=(
            f"{{my}} {noun}'s name is {{v}}",
            f"{{my}} {noun} is called {{v}}",
            f"{{my}} {noun} is {{v}}",
            *several,
            f"{{v}} is {{my}} {noun}",
            f"the name of {{my}} {noun} is {{v}}",
            f"{{my}} {noun} goes by the name of {{v}}",
            f"{{my}} {noun} is named {{v}}",
        ),
        loose=(f"{{v}} is the name of {{my}} {noun}",),
        asked=(
            f"who is {{my}} {noun}?",
            f"what is {{my}} {noun} called?",
            f"what's {{my}} {noun} called?",
            f"which name does {{my}} {noun} have?",
            f"how is {{my}} {noun} called?",
        ),
        clauses=(f"what {{my}} {noun} is called", f"who {{my}} {noun} is"),
        nouns=(f"{{my}} {noun}'s name", f"the name of {{my}} {noun}"),
        reply=f"{{your}} {noun}'s name is {{v}}",
        yes_no=f"is {{my}} {noun} called {{v}}?",
    )


def attribute(
    noun: str, kind: str, told: tuple[str, ...] = (), asked: tuple[str, ...] = ()
) -> Relation:
    """Build "my <noun> is <value>"; `told` and `asked` add wordings that only this noun has."""
    return Relation(
        key=noun,
        kind=kind,
        told=(
            f"{{my}} {noun} is {{v}}",
            *told,
            f"{{my}} {noun}: {{v}}",
            f"as for {{my}} {noun}, it is {{v}}",
            f"{{my}} {noun} is now {{v}}",
            f"{{my}} {noun} happens to be {{v}}",
            f"about {{my}} {noun}: it is {{v}}",
        ),
        loose=(f"{{v}} is {{my}} {noun}",),
        asked=(*asked, f"which one is {{my}} {noun}?", f"{{my}} {noun} is what?"),
        clauses=(f"what {{my}} {noun} is",),
        nouns=(f"{{my}} {noun}",),
        reply=f"{{your}} {noun} is {{v}}",
        yes_no=f"is {{my}} {noun} {{v}}?",
    )


def favourite(thing: str, kind: str, spelling: str = "favourite") -> Relation:
    """Build "my favourite <thing>"; `spelling` may be the American one."""
    return attribute(
        f"{spelling} {thing}",
        kind,
        told=(
            f"the {thing} {{I like/likes}} best is {{v}}",
            f"{{v}} is {{my}} {spelling} {thing}",
            f"{{my}} {spelling} {thing} has always been {{v}}",
            f"{{I like/likes}} {{v}} more than any other {thing}",
        ),
        asked=(
            f"which {thing} {{do I/does}} like best?",
            f"what {thing} {{do I/does}} like best?",
            f"which {thing} is {{my}} {spelling}?",
        ),
    )


def verbal(
    key: str,
    kind: str,
    *,
    told: tuple[str, ...],
    asked: tuple[str, ...],
    clauses: tuple[str, ...],
    reply: str,
    nouns: tuple[str, ...] = (),
    missing: str = "something you have not told me",
) -> Relation:
    """Build a relation with wording of its own."""
    return Relation(key, kind, told, asked, clauses, nouns, reply, missing)
