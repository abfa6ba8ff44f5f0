"""How the owner wants answers to be: preferences that a program can check.

The one idea: such a wish has one of few values under a fixed subject ("answer length" = "short"),
whatever words it was told in, so that a checker can tell whether an answer keeps it. Invariant: a
wish for one answer ("make it shorter") is no preference; only what speaks of answers in general is.
"""

import re

from homebox.learning.reading.told import Told, cleaned
from homebox.learning.reading.wishes import (
    ANSWER_LANGUAGE,
    ANSWERS,
    NUMBERS,
    SUBJECTS,
    WISHES,
    Wish,
)

__all__ = ["SUBJECTS", "wished"]

_LONGEST = 300  # characters of a clause that can be a wish
_LASTING = re.compile(
    r"\b(?:always|never|from now on|in (?:the )?future|by default|as a rule|generally|every time"
    r"|whenever|in general|at all times|going forward|ever(?: again)?|any ?more|no longer)\b",
    re.IGNORECASE,
)
_GENERAL = re.compile(
    rf"\b{ANSWERS}\b|\b(?:i|i'd|we) (?:would |really |much |generally |usually |always"
    r" |strongly )*"
    r"(?:prefer|like|want|love|hate|dislike|don't like|don't want|can't stand|need|use|write in"
    r"|work with|work in|code in|think in|program in)\b"
    r"|\b(?:no|without|stop using|avoid|drop the|skip the|don't use|do not use|don't ever)\b"
    r"|\b(?:when|while|for) (?:you )?(?:writ\w+|answer\w*|reply\w*|giv\w+|code|coding)\b"
    r"|\b(?:every|each|per) (?:answer|reply|response|message)\b|\bstick to\b"
    # Said alone, with nothing that it is for, so for whatever comes.
    r"|^(?:please )?use (?:the )?(?:metric|imperial|celsius|centigrade|fahrenheit|(?:british"
    r"|american|u[ks])"
    r" (?:spelling|english)|24[ -]?h\w*|12[ -]?h\w*)(?: units| system| format| clock| time)?"
    r"(?:,? (?:not|instead of|rather than) \w+)?,?(?: please)?$"
    r"|^(?:please )?write (?:all |your )?(?:dates|times)\b"
    r"|\bstop (?:apologi[sz]ing|rambling)\b|^(?:please |always )*use (?:tabs|\w+ spaces)\b"
    r"|\bkeep (?:it|things|everything|your \w+)\b",
    re.IGNORECASE,
)
# What somebody else wants, or once said.
_REPORTED = re.compile(
    r"\b(?:says?|said|told|asked|asks|according|claims?|wrote|writes|if|would you)\b", re.IGNORECASE
)
# A wish for this one answer, whatever else it says.
_ONCE = re.compile(
    r"\b(?:this time|just (?:this )?once|for (?:this|that) (?:one|answer|question|task)|now|here"
    r"|again but|this (?:text|answer|code|file|function|list|paragraph|sentence|email|essay)"
    r"|that (?:text|answer|code|file|function|list|paragraph|sentence)|the (?:following|above)"
    r"|my (?:essay|code|text|email|function|letter|cv|report))\b",
    re.IGNORECASE,
)
# "Celsius, not Fahrenheit": what is not wanted says nothing of what is.
_INSTEAD = re.compile(
    r",? (?:and )?(?:not|instead of|rather than|over) (?:in )?(?:metric|imperial|celsius|centigrade"
    r"|fahrenheit|kilomet(?:er|re)s|miles|british|american|u[ks])\b(?: units| english| spelling)?",
    re.IGNORECASE,
)


def wished(clause: str) -> Told | None:
    """Read one clause as a lasting wish for answers, or return None."""
    if len(clause) > _LONGEST or _ONCE.search(_LASTING.sub("", clause)):
        return None
    if _REPORTED.search(clause):
        return None
    if not (_LASTING.search(clause) or _GENERAL.search(clause)):
        return None
    kept = _INSTEAD.sub("", clause)
    for wish in WISHES:
        match = wish.pattern.search(kept)
        if match:
            value = _value(wish, match)
            return Told(wish.subject, value, "preference") if value else None
    return None


def _value(wish: Wish, match: re.Match[str]) -> str:
    groups = {name: text for name, text in match.groupdict().items() if text}
    if "{n}" in wish.value:
        number = next((text.lower() for name, text in groups.items() if name[0] == "n"), "")
        number = NUMBERS.get(number.replace("a single", "one"), number)
        noun = wish.value.removeprefix("{n} ")
        return f"1 {noun.removesuffix('s')}" if number == "1" else f"{number} {noun}"
    if wish.value:
        return wish.value
    said = cleaned(next((text for name, text in groups.items() if name[0] == "v"), ""))
    return (
        said[:1].upper() + said[1:] if said.islower() and wish.subject == ANSWER_LANGUAGE else said
    )
