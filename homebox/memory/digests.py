"""What the digest of a turn covers: all that it says, and a random salt.

The one idea: a digest is over canonical JSON, in which a message stands as the same bytes wherever
it is shown. Prompts repeat with every request, so each message is encoded once for a page of turns,
and lists of texts or of whole numbers by what is fastest, since they have one form in any encoder.
Invariant: the bytes are those of canonical JSON of the whole, however they were put together.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec.json

from homebox.memory.clients import CHAT
from homebox.memory.store import encoded
from homebox.memory.turns import Turn

_ALWAYS = (
    *("adapter", "completion_tokens", "conversation", "finish_reason", "id", "model"),
    *("prompt_tokens", "sampling", "time"),
)
# Only what is there, so that turns from before there was such a thing keep their digests.
_MORE = ("offered", "owner", "parent")
_NEW, _PROMPT = b'"messages":[', b'"prompt":['


def digest_of(turn: Turn, salt: bytes) -> bytes:
    """Return the digest of everything that a turn says, with its salt."""
    new, prompt = (
        [said(each.role, each.content, each.provenance, each.details) for each in messages]
        for messages in (turn.messages, turn.prompt)
    )
    return digest(vars(turn), new, prompt, salt)


def digest(
    fields: Mapping[str, Any], new: Iterable[bytes], prompt: Iterable[bytes], salt: bytes
) -> bytes:
    """Return the digest of a turn with these fields and with messages as `said` encodes them."""
    content = {name: fields[name] for name in _ALWAYS}
    content |= {name: fields[name] for name in _MORE if fields[name]}
    if fields["kind"] != CHAT:
        content["kind"] = fields["kind"]
    ids = fields["token_ids"]
    last = b',"token_ids":%b}' % msgspec.json.encode(ids) if ids else b"}"
    # Before these names stand only texts and numbers, and a quote in a text is written with a
    # backslash: so the first place that reads like one of them is the field.
    whole = encoded({**content, "messages": [], "prompt": []})
    before, _, rest = whole.partition(_NEW)
    between, _, after = rest.partition(_PROMPT)
    parts = (
        salt,
        before,
        _NEW,
        b",".join(new),
        between,
        _PROMPT,
        b",".join(prompt),
        after[:-1],
        last,
    )
    return hashlib.sha256(b"".join(parts)).digest()


def said(role: str, content: str, provenance: str, details: str) -> bytes:
    """Encode a message; one without details as it was before there were any."""
    known = [role, content, provenance]
    return msgspec.json.encode([*known, details] if details else known)
