"""What clients put around their user's words, and what they ask on their own.

The one idea: a user's message is what somebody typed and what a program added to it; only the
former are the owner's words. What is unknown stays the owner's where it is his message, so this
names the forms of the clients that were seen (opencode, OpenClaw).
Invariant: nothing is lost: the parts of a message, joined, are the message; no text is made up.
"""

import re

CHAT = "chat"  # somebody talks with the model
TITLE = "title"  # a name for a conversation
COMPACTION = "compaction"  # a summary that takes the place of a conversation

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
