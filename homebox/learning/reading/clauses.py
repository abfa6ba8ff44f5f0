"""Cuts what the owner typed into clauses in which the owner may be speaking of themselves.

Owner text is full of words that are not the owner's claims: pasted mails, code, quotations, texts
to translate, games of pretence. Everything that may be such material is cut away first, because a
wrong lesson costs more than a missed one: a missed one can be told again.
Invariant: reading takes no longer than in proportion to the text, whatever stands in it.
"""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"(```|~~~).*?(\1|\Z)", re.DOTALL)
_CUT_LINE = re.compile(
    r"^\s*(-{3,}|={3,}|_{3,}|\*{3,}|<{3,}|>{3,}"
    r"|(from|to|subject|date|sent|cc): |begin forwarded message|on .{5,60} wrote:)",
    re.IGNORECASE,
)
_MARKUP_LINE = re.compile(
    r"^\s*(>|\||<[a-z!/]|[{}\[\]]|\$ |# ?!|//|/\*|import |def |class |return |select |insert "
    r"|\d{4}-\d\d-\d\d[ T]\d\d:|\[?\d\d:\d\d:\d\d|traceback|(error|warning|info|debug)[:\]])",
    re.IGNORECASE,
)
_CODE_LINE = re.compile(r"(;|\{|\})\s*$|[=!<>]=|->|=>|\(\)|\b\w+\s=\s")
_CODE_INDENT = re.compile(r"^(\t| {4,})\S")
_BULLET = re.compile(r"^\s*([-*•+]|\d{1,2}[.)])\s+")
_SPEAKER = re.compile(r"^\s*(user|assistant|system|tool|human|ai|bot|q|a|[A-Z][a-z]+): ")

_ABBREVIATION = re.compile(
    r"\b(mr|mrs|ms|dr|prof|st|jr|sr|vs|no|approx|e\.g|i\.e|[a-z])\.$", re.IGNORECASE
)
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"')\]]*+(?=\s|$)|;\s|\s[–—]\s|\s--\s|\s\(|\)\s")

# A sentence that opens a game, a draft or a task: what follows it in the message is material.
_FICTION = re.compile(
    r"\b(imagine|pretend|suppos(e|ing)|hypothetical(ly)?|role-?play\w*|for (example|instance)"
    r"|let's (say|assume|play|pretend)|(say|assume) (that )?(i|my)\b|act as|make-believe"
    r"|example sentences?|test sentences?|lyrics|in (my|this|the|a) "
    r"(story|novel|game|play|film|movie|dream|script|poem|song|scene|campaign)|my character"
    r"|(write|compose|draft|make up|invent|generate|create|finish|continue|complete) (me )?"
    r"((a|an|the|this|some|my) )?([\w-]+ ){0,3}"
    r"(story|poem|song|letter|essay|e-?mail|message|dialogue|bio|joke|speech|scene|text|limerick"
    r"|paragraph|profile|advert|ad|post|tweet|sentences?|cover letter)"
    r"|from now on you are|you are now|speaking as|just kidding|i('m| am| was) (just )?"
    r"(joking|kidding|lying)|opposite day)\b",
    re.IGNORECASE,
)
_TASK = re.compile(
    # Possessive: each blank or sign at the beginning would look through the whole sentence anew.
    r"^\W*+(please |can you |could you |now )*+(?!.*\bwhen i\b)"
    r"(translate|summari[sz]e|proof-?read|rewrite|rephrase"
    r"|paraphrase|correct|fix|explain|repeat|say|spell|improve|shorten|check|edit|parse|review"
    r"|type|print|echo|answer as|reply with|complete|classify|extract|convert|quote)\b",
    re.IGNORECASE,
)
# A sentence under a condition claims nothing, whatever its main clause says.
_CONDITION = re.compile(
    r"^\W*(?:(?:and|but|so|well|then) )?(?:if|unless|whenever|once|assuming|supposing|provided)\b"
    r"(?! i thank)|^\W*when (?!i\b.*\b(?:say|answer)\b)|\b(?:even if|only if|what if|whether"
    r"|unless)\b"
    r"|\bif (?!you (?:want to|must) know|that helps|it matters|i thank)",
    re.IGNORECASE,
)
# What may stand before a colon when the rest is still the owner speaking for themselves.
_OWN_COLON = re.compile(
    r"^\W*((please |so |ok(ay)?,? |and |also,? |hey,? |oh,? |no,? |sorry,? |wait,? )*"
    r"(remember|note|listen|fyi|btw|p\.?s\.?|update|correction|about me|for your notes|notes?"
    r"|for the record|a?nother (thing|fact)|one more thing|remember this|please note|note this"
    r"|some facts( about me)?|facts( about me)?|here are some facts about me|new fact|important"
    r"|(a |some )?(quick |short |brief |little )?(intro|introduction|info|news|details|background)"
    r"|heads up|just so you know|you should know|reminder|my (own )?\w+('s)?( \w+('s)?){0,4}"
    r"|about my( \w+('s)?){1,5}|fav(e|ou?rite)? \w+|the truth is|that (has )?changed|i was wrong"
    r"|to be clear|by the way"
    r"|no|actually|sorry|wrong))\W*$",
    re.IGNORECASE,
)
_OWN_HEAD = re.compile(
    r"^\W*(i|my|our|we)\b(?!.*\b(say|said|wrote|write|got|read)\b)", re.IGNORECASE
)

_QUOTED = re.compile(r"\"[^\"\n]*\"?|“[^”\n]*”?|«[^»\n]*»?|(?<!\w)'[^'\n]{3,}'(?!\w)")
_SPOKEN = re.compile(r"[\w:]")  # what a sentence has that tells, or announces material
_CLAIM = re.compile(r"\b(i|i'm|i've|my|me|we|our|is|are|am|was|have|has)\b", re.IGNORECASE)
# Marks the place of a removed quotation, so that no pattern can match across it.
GAP = "\x00"
LONGEST = 600  # characters of a clause that is read whole
MOST = 2_000  # clauses of one message: nobody types more, and to read them takes a while
_LONGEST_ABBREVIATION = 16  # characters, with what stands around it

_SPLIT = re.compile(
    r",?\s+(?:and|but|also|while|plus)\s+(?:also\s+)?(?=(?:i|i'm|im|i've|ive|my|our|we|call me)\b)"
    r"|,\s+(?=(?:i|i'm|im|i've|ive|my|our|we)\b)",
    re.IGNORECASE,
)
_VERB = (
    r"(?:live|work|have|like|love|hate|prefer|speak|play|drive|collect|study|drink|support|enjoy"
    r"|dislike|keep|wake up|get up|go to bed|was born|grew up|come from|can't stand|don't like"
    r"|never eat|am (?:a|an|allergic|from|learning|into|called|named|working|studying|living)\b)"
)
_SHARED_SUBJECT = re.compile(rf",?\s+(?:and|but)\s+(?={_VERB}\s)", re.IGNORECASE)
_SHARED_HAVE = re.compile(
    r"^((?:i|we)(?:'ve| have)(?: got)? an? [\w -]{2,30}? (?:called|named) [^,]+?),?\s+and "
    r"(an? [\w -]{2,30} (?:called|named) .+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Clause:
    """One clause; `question` where its sentence asked something."""

    text: str
    question: bool = False


def owner_clauses(text: str) -> list[Clause]:
    """Return the clauses of one message that may be claims, in order, without material.

    Of more than `MOST` clauses these are the first half of so many, and the last.
    """
    clauses: list[Clause] = []
    for sentence in _sentences(prose(text)):
        if _FICTION.search(sentence):
            break
        if _CONDITION.search(sentence):
            continue
        body, goes_on = _without_material(sentence)
        if body:
            question = body.rstrip("\"')] ").endswith("?")
            clauses += [Clause(part, question) for part in _parts(body.rstrip(" .!?…\"')]"))]
        if not goes_on:
            break
    if len(clauses) > MOST:
        return [*clauses[: MOST // 2], *clauses[-MOST // 2 :]]
    return clauses


def prose(text: str) -> str:
    """Remove code, quoted lines, tables, logs, transcripts and whatever follows a mail header."""
    text = text.replace("’", "'").replace("‘", "'")
    kept: list[str] = []
    for line in _FENCE.sub("\n", text).splitlines():
        if _CUT_LINE.match(line):
            break
        if _MARKUP_LINE.match(line) or _CODE_INDENT.match(line) or _CODE_LINE.search(line):
            continue
        if _SPEAKER.match(line) and not _OWN_COLON.match(line.split(":")[0]):
            continue
        kept.append(" ".join(_BULLET.sub("", line).split()))
    return "\n".join(kept).replace("`", "")


def _sentences(text: str) -> list[str]:
    sentences: list[str] = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            end = match.end()
            tail = line[max(start, end - _LONGEST_ABBREVIATION) : end].rstrip()
            if end < len(line) and _ABBREVIATION.search(tail):
                continue
            sentences.append(line[start:end])
            start = end
        sentences.append(line[start:])
    return [sentence.strip(" \t()–—;") for sentence in sentences if _SPOKEN.search(sentence)]


def _without_material(sentence: str) -> tuple[str, bool]:
    """Return the claimable part of a sentence, and whether the message goes on after it."""
    sentence = _QUOTED.sub(_quoted, sentence)
    if _TASK.match(sentence):
        return "", ":" not in sentence and GAP not in sentence
    colon = re.search(r"(?<!\d):|:(?!\d)", sentence)
    if colon is None or _OWN_COLON.match(sentence[: colon.start()]):
        return sentence, True
    return "", bool(_OWN_HEAD.match(sentence[: colon.start()]))


def _quoted(match: re.Match[str]) -> str:
    inside = match.group().strip("\"“”«»'")
    short = 0 < len(inside.split()) <= 6 and not _CLAIM.search(inside)
    return inside if short else GAP


def _parts(sentence: str) -> list[str]:
    parts: list[str] = []
    for part in _SPLIT.split(sentence):
        shared = _SHARED_HAVE.match(part)
        if shared:
            parts += [shared.group(1), "I have " + shared.group(2)]
            continue
        first, *rest = _SHARED_SUBJECT.split(part)
        if rest and re.search(r"\bi\b", first, re.IGNORECASE):
            parts += [first, *("I " + clause for clause in rest)]
        else:
            parts.append(part)
    return [_cut(stripped) for part in parts if (stripped := part.strip(" ,"))]


def _cut(clause: str) -> str:
    """Leave of a long clause its beginning, which may correct what was said, but claims nothing."""
    return clause if len(clause) <= LONGEST else clause[:LONGEST] + GAP
