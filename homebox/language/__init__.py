"""What people say of themselves, and the text that the built-in model is made from.

Relations say how a fact is told, asked, answered and not known; statements finds facts in a
message; the rest writes and evaluates the built-in model's language. Nothing here needs numpy,
and everything written is a pure function of a seed.
"""

from homebox.language.phrasing import Tier
from homebox.language.preferences import PREFERENCES, Preference
from homebox.language.relation import Relation
from homebox.language.relations import RELATIONS, relation_for
from homebox.language.statements import (
    Correction,
    Match,
    match_correction,
    match_preference,
    match_statement,
)

__all__ = [
    "PREFERENCES",
    "RELATIONS",
    "Correction",
    "Match",
    "Preference",
    "Relation",
    "Tier",
    "match_correction",
    "match_preference",
    "match_statement",
    "relation_for",
]
