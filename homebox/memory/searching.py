"""Words looked for in the ledger, where they are.

The one idea: without an index, which would keep words that were erased, a search reads every text
once, so what is looked at in each must be little: first the part of what is sought that begins with
its rarest letter, wild where a letter may have been written as another, and the whole, in other
cases of other than ASCII letters, only where that part is. Invariant: what is found is in a message
that nobody erased.
"""

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

LATEST = 2_000  # turns that are looked through first
_WORDS = 64  # that are looked for at once
AROUND = 60  # characters before and after what was searched for
_LONGEST = 1_000  # characters of a pattern; SQLite takes 50,000 bytes
_SHORTEST = 3  # letters that are worth to be looked for before the whole
_SHARP = "ss"  # what a sharp s is folded to
_HAS_SHARP = "(instr({}.content, 'ß') OR instr({}.content, 'ẞ')) AND holds({}.content)"
# LIKE reads no further than a zero: texts that have one are looked through without it.
_ZERO = "\0"
_ZEROS = "(SELECT number FROM texts WHERE instr(content, char(0)))"
# Letters that each come from one letter, and those that may come from any number of others.
_SINGLE = re.compile("[\u00e0-\u017f\u0430-\u052f]")
_OTHERS = re.compile(f"[^\\x00-\\x7f]|{_SHARP[0]}")
_USUAL = " etaoinsrhldcumfpgwybvkxjqz"  # letters of many languages, the most usual first


@dataclass(frozen=True)
class Hit:
    """A message in which a text occurs."""

    turn: str
    time: str
    conversation: str
    role: str
    text: str  # what stands around it


class _Sought(NamedTuple):
    """What is looked for, as SQL about a table `{}` of texts, and its values."""

    condition: str
    values: dict[str, str]


def search(
    connection: sqlite3.Connection, text: str, most: int, conversation: str = ""
) -> list[Hit]:
    """Return the last `most` messages that hold a text, the oldest first; letters of any case."""
    exact = text.encode("utf-8", "replace").decode()
    needle = exact.casefold()
    if not needle or most < 1:
        return []
    forms = _forms(needle)

    def holds(content: str | None) -> bool:
        if content is None:
            return False
        if _ZERO in content:
            return needle in content.casefold()
        if content.isascii() and len(needle) <= _LONGEST:
            return False  # LIKE finds what is ASCII alone; a string knows it without being read
        known = exact in content
        return known or (any(map(content.__contains__, forms)) and needle in content.casefold())

    connection.create_function("holds", 1, holds, deterministic=True)
    sought = _sought(needle)
    rows = _nearby(connection, sought, most, conversation)
    if len(rows) < most and not conversation:
        rows = _anywhere(connection, sought, most)
    return [
        Hit(id, time, talk, role, _around(needle, content, details or ""))
        for id, time, talk, role, content, details in reversed(rows)
    ]


def _sought(needle: str) -> _Sought:
    """Say how a casefolded text is looked for, what costs least first."""
    conditions, values = [], {}
    start = _rarest(needle)
    if start is not None:
        conditions.append("{}.content LIKE :part ESCAPE '\\'")
        values["part"] = _pattern(needle[start:][:_LONGEST])
    if needle.isascii() and len(needle) <= _LONGEST:
        # An ASCII letter may also come from another one, but those are signs such as the Kelvin's.
        ways = "{}.content LIKE :whole ESCAPE '\\'"
        conditions.append(f"({ways} OR ({_HAS_SHARP}))" if _may_be_sharp(needle) else ways)
        values["whole"] = f"%{_escaped(needle)}%"
    else:
        conditions.append("holds({}.content)")
    likely = " AND ".join(conditions) if _ZERO not in needle else "0"
    return _Sought(f"(({likely}) OR ({{}}.number IN {_ZEROS} AND holds({{}}.content)))", values)


def _forms(needle: str) -> tuple[str, ...]:
    """Return how a letter of a casefolded text, other than ASCII, may have been written."""
    letter = next((letter for letter in needle if not letter.isascii()), "")
    if len(needle) > _LONGEST or not letter:
        return ("ß", "ẞ") if _may_be_sharp(needle) and len(needle) <= _LONGEST else ("",)
    return (letter, letter.upper(), letter.title(), *("ς" for _ in letter if letter == "σ"))


def _may_be_sharp(part: str) -> bool:
    """Say whether a sharp s may be behind letters of a casefolded part, or behind half of one."""
    return _SHARP in part or part.startswith(_SHARP[0]) or part.endswith(_SHARP[0])


def _pattern(part: str) -> str:
    """Return what LIKE takes for a casefolded part: wild where its letters come from others."""
    if part.isascii() and not _may_be_sharp(part):
        return f"%{_escaped(part)}%"
    return f"%{_OTHERS.sub('%', _SINGLE.sub('_', _escaped(part)))}%"


def _escaped(part: str) -> str:
    return re.sub(r"([%_\\])", r"\\\1", part)


def _rarest(needle: str) -> int | None:
    """Return where the rarest letter stands that is no wild one; None if too few follow it.

    LIKE is fast in finding the first letter of a pattern.
    """
    wild = not needle.isascii() or _may_be_sharp(needle)
    places = [place for place, letter in enumerate(needle) if not (wild and _OTHERS.match(letter))]
    starts = places[: 1 - _SHORTEST]
    return max(starts, key=lambda start: (_rarity(needle[start]), -start), default=None)


def _rarity(letter: str) -> int:
    return _USUAL.index(letter) if letter in _USUAL else len(_USUAL) // 2


def _nearby(
    connection: sqlite3.Connection, sought: _Sought, most: int, conversation: str
) -> list[tuple[str, str, str, str, str, str | None]]:
    """Look through one conversation, or else through the latest turns: that finds usual words."""
    where = "conversation = :conversation"
    if not conversation:
        where = f"turns.number > (SELECT max(number) FROM turns) - {LATEST}"
    said, more = (sought.condition.replace("{}", name) for name in ("said", "more"))
    return connection.execute(
        "SELECT id, time, conversation, role, said.content, more.content FROM turns "
        "JOIN messages ON messages.turn = turns.number AND part = 'new' "
        "JOIN texts AS said ON said.number = text LEFT JOIN texts AS more ON more.number = details "
        f"WHERE {where} AND ({said} OR {more}) "
        "ORDER BY turns.number DESC, position DESC LIMIT :most",
        {**sought.values, "conversation": conversation, "most": most},
    ).fetchall()


def _anywhere(
    connection: sqlite3.Connection, sought: _Sought, most: int
) -> list[tuple[str, str, str, str, str, str | None]]:
    """Look through all texts, each once, then for the messages that have those that fit."""
    # A cross join is made from left to right, so that few texts need no look at all messages.
    return connection.execute(
        "WITH found AS MATERIALIZED (SELECT number FROM texts WHERE "
        f"{sought.condition.replace('{}', 'texts')}), "
        "places AS (SELECT turn, position FROM found CROSS JOIN messages "
        "ON text = found.number WHERE part = 'new' UNION SELECT turn, position FROM found "
        "CROSS JOIN messages ON details = found.number WHERE part = 'new' "
        "ORDER BY turn DESC, position DESC LIMIT :most) "
        "SELECT id, time, conversation, role, content, "
        "(SELECT content FROM texts WHERE number = details) FROM places "
        "JOIN turns ON turns.number = places.turn JOIN messages ON messages.turn = places.turn "
        "AND part = 'new' AND messages.position = places.position "
        "JOIN texts ON texts.number = messages.text "
        "ORDER BY places.turn DESC, places.position DESC",
        {**sought.values, "most": most},
    ).fetchall()


def showing(connection: sqlite3.Connection, conversation: str, text: str) -> list[str]:
    """Return the ids of turns of a conversation whose prompts hold a message of that text."""
    rows = connection.execute(
        "SELECT DISTINCT id FROM texts JOIN messages ON text = texts.number AND part = 'prompt' "
        "JOIN turns ON turns.number = turn WHERE hash = ? AND conversation = ?",
        (hashlib.sha256(text.encode()).digest(), conversation),
    )
    return [id for (id,) in rows]


def holding(
    connection: sqlite3.Connection, words: Iterable[str], fits: Callable[[str], bool]
) -> list[str]:
    """Return the ids of turns with a text that `fits`; it holds one of the words, casefolded.

    Each text is looked at once, however many turns show it.
    """
    connection.create_function("fits", 1, fits, deterministic=True)
    wanted = sorted(set(words))
    likely, values = "1", []
    if len(wanted) <= _WORDS and all(word.isascii() for word in wanted):
        # Folding may make ASCII letters of others, so what has others is looked at, too.
        others = "length(CAST(content AS BLOB)) > length(content)"
        likely = " OR ".join([*("content LIKE ?" for _ in wanted), others])
        values = [f"%{word}%" for word in wanted]
    rows = connection.execute(
        f"WITH found AS MATERIALIZED (SELECT number FROM texts WHERE ({likely}) AND fits(content)) "
        "SELECT DISTINCT id FROM found JOIN messages ON text = found.number "
        "JOIN turns ON turns.number = turn",
        values,
    )
    return [id for (id,) in rows]


def _around(needle: str, *texts: str) -> str:
    """Return what stands around the first occurrence in one of the texts."""
    for text in texts:
        match = re.search(re.escape(needle), text, re.IGNORECASE)
        place = match.start() if match else text.casefold().find(needle)
        if place >= 0:
            start, end = max(0, place - AROUND), place + len(needle) + AROUND
            before, after = "..." if start else "", "..." if end < len(text) else ""
            return f"{before}{text[start:end]}{after}"
    return texts[0][: 2 * AROUND]
