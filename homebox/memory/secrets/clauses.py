"""Where a clause begins and ends, and what stands in it right before a word.

The one idea: a made-up word is a secret only where its clause leads to it, by a verb or a mark, and
does not call it somebody's or something's name. Invariant: a clause is a hundred and fifty
characters at most.
"""

import re

_BEFORE, _BEHIND = 64, 72  # characters of a clause before and behind its sign
_STOP = re.compile(r"[.!?;][ ](?=\S)|[\n(){}<>=|]")
# What leads to the word: a verb, a mark, or that the clause begins with it.
LEADING = re.compile(
    r"(?:\b(?:is|was|its|it['’]?s|be|use|used|uses|using|try|tried|type|typed|enter|entered|put in"
    r"|needs?|wants?|takes?|reads|through|via|accepted|accepts|remember|with|now|then|again|still|to|from|and|or|say"
    r"|says|set|told them|gave (?:it|them|him|her)|would|is|runs on|just|really|actually|simply"
    r"|pw|pass|password|passcode|passphrase|guess|think|about"
    r"|login|one|thing|for (?:the|my|our) \w+|pw['’]s)[ ]|[,:–—-][ ]|\w['’]s[ ]|\A[ ]?)[\"'“`(]?\Z",
    re.IGNORECASE,
)
# What a word beside them is instead: somebody's or something's name.
OWNED = re.compile(
    r"\b(?:user(?:name)?|channel|profile|repo|user ?id|login name|handle|nick(?:name)?|account"
    r"|gamertag|ssid|e-?mail|id"
    r"|network(?! to\b)|named?|called|version|model|branch|commit|release|tag|ticket|order|invoice"
    r"|file|folder|serial|flight|room|host(?:name)?|server|variable|function|class|package|device)"
    r"(?:['’]s)?(?:[ ](?:name|number|id|no))?"
    r"(?:[ ]on[ ]\w+)?(?:[ ](?:is|was|to|now|are|with)|[:,])*[ ][\"'“`(]?\Z",
    re.IGNORECASE,
)
# Behind a name of which the password follows.
USED = re.compile(r"[\"'`]?,?[ ](?:[/|+][ ]|(?:and )?(?:the )?(?:pw|pass|password|passwd)\b)")


def clause(text: str, place: int, end: int) -> tuple[int, int]:
    """Return where the clause around a sign begins and ends."""
    begin, last = max(0, place - _BEFORE), min(len(text), end + _BEHIND)
    for stop in _STOP.finditer(text, begin, place):
        begin = stop.end()
    stopped = _STOP.search(text, end, last)
    return begin, stopped.start() + 1 if stopped else last
