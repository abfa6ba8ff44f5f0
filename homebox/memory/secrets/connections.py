"""What stands between the name of a secret and the secret: "is", "=", "for the router is", a blank.

The one idea: whatever is named is connected in the same few ways, of which the surest is tried
first. Invariant: every connection tells in its group `bare` whether only a blank is there.
"""

from collections.abc import Callable
from re import Match

from homebox.memory.secrets.cues import Cue, Naming, Seek, at_sign, one
from homebox.memory.secrets.view import Span

# Between what something is called and what it is.
_ADVERB = (
    r"(?:(?:now|still|currently|just|always|simply|probably|this|changed to|set to|as|to)\b[ :]*)"
)
_IS = (
    r"(?:is|was|are|were|ist|war|lautet|est|c['’]est|es|è|be|become|becomes|equals|reads|says|means|(?:has"
    r"|have) been|(?:should|will|would|must) be)"
)
_NEVER = r"(?P<bare>(?!.).)?"
STRICT = (
    r"(?:"
    rf"[\"'`\])*]{{0,2}}[ \t]{{1,3}}{_IS}\b[ \t]*[:=]?[ \t]*{_ADVERB}{{0,2}}(?:\n[ \t>]*)?"
    r"|\\{0,3}[\"'`\])*]{0,2}[ \t]{0,12}(?::=|=>|->|==?|[:→–—]|-(?=[ \t]))[ \t]{0,8}"
    r"(?:\r?\n[ \t>]{0,8})?"
    rf"|['’]s[ \t]{{1,3}}{_ADVERB}{{0,2}}"
    r"|[ \t]{0,2}\([ \t]{0,2}|[\"'][ ](?:value|default|content)="
    rf"){_NEVER}"
)
_TO = rf"[ \t]{{1,3}}(?:to|as)\b[ \t]*[:=]?[ \t]*{_NEVER}"
_BARE = r"(?P<bare>[ \t]{1,3})"
# "for the router at home": what a password is for, before what it is.
GAP = (
    r"(?:[ \t]{1,2}(?:for|to|of|on|at|in|from|für|von|im|am|pour|de|du|del|della"
    r"|over|behind|with|we|i|you|they|that|which|he|she|now)\b"
    r"[^\n.:;=!?\"`]{1,60}?)??"
)


def named(
    kind: str,
    signs: str,
    name: str,
    check: "Callable[[str, Match[str]], Span | None]",
    gap: str = GAP,
    seek: Seek = at_sign,
    naming: Naming | None = None,
) -> Cue:
    """Return a row for what is called by a name, with all connections to its value."""
    always = gap.removesuffix("??")  # what lies between is looked over last
    forms = (STRICT, _TO, *([f"{always}{STRICT}", f"{always}{_TO}"] if gap else []), _BARE)
    patterns = tuple(f"(?:{name}){form}" for form in forms)
    return Cue(kind, tuple(signs.split("|")), patterns, one(check), seek, f"(?:{name})", naming)
