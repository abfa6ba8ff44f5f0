"""What clients put around their user's words, and what they ask on their own.

The one idea: a user's message is what somebody typed and what a program added to it; only the
former are the owner's words. These are the forms of the clients that were seen (opencode,
OpenClaw); whatever is in no such form is the owner's, where the message is his.
Invariant: the parts of a message, joined, are the message. What begins in a form and has no certain
end lasts to the end of its part: a file that says where it ends has no say in it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from homebox.memory.provenance import ASSISTANT, FILE, OWNER, SYSTEM, TOOL

CHAT = "chat"  # somebody talks with the model
TITLE = "title"  # a name for a conversation
COMPACTION = "compaction"  # a summary that takes the place of a conversation
COMMAND = "command"  # an order of the owner's to the box, which no model answered

_KINDS = (
    (COMPACTION, re.compile(r"\bcontext summari[sz]ation (?:agent|assistant)\b", re.I)),
    (COMPACTION, re.compile(r"\btasked with summari[sz]ing conversations\b", re.I)),
    (TITLE, re.compile(r"\btitle generator\b|\bconversation title\b", re.I)),
)
_SEEN = 2_000  # characters of the system's words in which a client says what it wants
_TIME = re.compile(
    r"\[(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?"
    r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?(?: [^\]\n]{1,40})?\] "
)
_SESSION = re.compile(r"^Runtime: agent=.*\| sessionId=([\w-]{8,64}) \|", re.M)
_INTERNAL = ("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>", "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>")
_READ = "Called the Read tool with the following input: "
_UP_TO_END = r".*\Z"
_LINE = r"[^\n]*"
# How a piece begins, how far it goes, whose words it is; (?s) only where a form may have lines.
_FORMS = (
    (f"(?s:{re.escape(_INTERNAL[0])}.*(?:{re.escape(_INTERNAL[1])}|\\Z))", TOOL),
    (r"(?s:<system-reminder>.*(?:</system-reminder>|\Z))", SYSTEM),
    (f"(?s:{re.escape(_READ)}{_UP_TO_END})", FILE),
    (f"(?s:Read tool failed to read {_UP_TO_END})", FILE),
    # Whether a line ends so is asked once, where it begins: it may have many beginnings.
    (rf"(?ms:^(?=[^\n]*</path>\n<type>)[^\n]*?<path>{_UP_TO_END})", FILE),
    (rf"(?m:^Runtime: agent={_LINE}\| sessionId={_LINE})", SYSTEM),
    (rf"(?m:^Continue the current task\b{_LINE}(?:\n(?!\n){_LINE})*)", SYSTEM),
    (rf"(?m:^Continue if you have next steps, or stop and ask for clarification{_LINE})", SYSTEM),
    (r"(?m:^Summarize the task tool output above and continue with your task\.$)", SYSTEM),
    (r"\A(?:What did we do so far\?|The following tool was executed by the user)\Z", SYSTEM),
    (rf"(?s:\AThe conversation history before this point was compacted\b{_UP_TO_END})", ASSISTANT),
    (
        rf"(?s:\AThe following is a summary of a branch that this conversation{_UP_TO_END})",
        ASSISTANT,
    ),
)
_ANY = re.compile("|".join(f"({form})" for form, _ in _FORMS))
_QUOTED = re.compile(r'(?s)\s*"((?:[^"\\]|\\.)*)"\s*')


class Part(NamedTuple):
    """A piece of a message and whose words it is."""

    text: str
    provenance: str


def kind_of_words(system: str, tools: bool) -> str:
    """Return what a request is for, by the system's words and whether it offers tools."""
    if tools:
        return CHAT
    return next((kind for kind, sign in _KINDS if sign.search(system[:_SEEN])), CHAT)


def without_time(text: str) -> str:
    """Return a user's message without the time that OpenClaw puts before it."""
    found = _TIME.match(text)
    return text[found.end() :] if found else text


def session_in(text: str) -> str:
    """Return the id of the session that OpenClaw names in a user's message; empty if none."""
    found = _SESSION.search(text)
    return found.group(1) if found else ""


def parts_of_message(text: str, lengths: Sequence[int] = ()) -> list[Part]:
    """Return the parts of a user's message, each with whose words it is.

    `lengths` are those of the pieces that the client sent it in, if it did: a file that it added
    is over where its piece is.
    """
    if sum(lengths) != len(text) or any(length < 0 for length in lengths):
        lengths = (len(text),)
    found: list[Part] = []
    place = 0
    reading = False  # what comes is what the tool read
    for length in lengths:
        piece = text[place : place + length]
        place += length
        if reading and not piece.startswith(_READ):
            found.append(Part(piece, FILE))
            reading = False
        else:
            found += _parts(piece)
            reading = len(lengths) > 1 and piece.startswith(_READ)
    merged: list[Part] = []
    for part in found:
        if part.provenance == OWNER and merged and merged[-1].provenance == OWNER:
            part = Part(merged.pop().text + part.text, OWNER)
        if part.text:
            merged.append(part)
    return merged


def _parts(text: str) -> Iterator[Part]:
    place = len(text) - len(without_time(text))
    yield Part(text[:place], SYSTEM)
    for match in _ANY.finditer(text, place):
        yield Part(text[place : match.start()], OWNER)
        yield Part(match.group(), _FORMS[(match.lastindex or 1) - 1][1])
        place = match.end()
    yield Part(text[place:], OWNER)


def typed_words(text: str) -> str:
    """Return what was typed where `opencode run` puts its arguments into quotes."""
    found = _QUOTED.fullmatch(text)
    return re.sub(r'\\(["\\])', r"\1", found.group(1)) if found else text
