"""Decides what must never be learned, and what only after the owner has looked at it.

A secret in the weights cannot be redacted any more, so a clause that carries one is no lesson at
all. A clause that speaks of tools, addresses, credentials or of keeping quiet is how a planted
text would sound, so it waits in quarantine until the owner approves it.
"""

import math
import re
from collections import Counter

from homebox.memory.secrets.finding import SIGN, find_secrets

_SECRET_WORD = (
    r"(pass(word|phrase|code)|pwd|pin( code| number)?|api[ -]?key|secret( key)?|private key"
    r"|access (key|token|code)|auth(entication)? (code|token)|token|credentials?"
    r"|recovery (code|phrase)"
    r"|seed phrase|cvv|cvc|iban|(credit|debit|bank) card|card number|account number|sort code"
    r"|routing number|social security|ssn|passport number|tax id|alarm code|door code|safe code"
    r"|security (code|answer|question)|license key|otp|2fa)"
)
_SECRET = re.compile(rf"\b{_SECRET_WORD}s?\b", re.IGNORECASE)
_WORD = re.compile(r"[^\s,;\"'()]{16,}")

_SUSPICIOUS = (
    ("a web address", r"https?:|www\.|\w-*\.(com|net|org|io|dev|ru|sh|xyz|exe|zip)\b|\w@\w"),
    (
        "tools or commands",
        r"\b(tools?|function calls?|api|shell|bash|terminal|command( line)?|script|sudo|curl|wget"
        r"|rm -|execut(e|es|ing)|run(s|ning)? (the|this|a|any|every)|install|download|upload"
        r"|webhook|endpoint|server|cron|payload|plugin)\b",
    ),
    (
        "credentials",
        r"\b(log-?in|sign-?in|user ?name|credential|certificate|ssh|gpg|2fa|keychain|wallet)s?\b",
    ),
    (
        "keeping quiet",
        r"\b(don'?t|do not|never|without|not to) (tell(ing)?|mention(ing)?|say(ing)?|reveal(ing)?"
        r"|ask(ing)?|warn(ing)?|show(ing)?|disclos(e|ing)|report(ing)?|inform(ing)?)\b"
        r"|\b(keep (it|this|that|quiet|silent)|silently|in secret|secretly|between us|hide (this"
        r"|that|it))\b",
    ),
    (
        "the assistant's orders",
        r"\b(ignore|disregard|override|bypass) (all|any|the|your|previous|every)|system prompt"
        r"|\b(your|previous|prior|new) (instructions?|rules?|guidelines?|orders?)\b|jailbreak"
        # Atomic: in a line without "to" behind the first of them, no other one needs a look.
        r"|(?m:^)(?>.*?\b(send|forward|e-?mail|post|transfer|pay|wire)(s|ed)? ).*\bto\b",
    ),
)
_SUSPICIONS = [(reason, re.compile(text, re.IGNORECASE)) for reason, text in _SUSPICIOUS]


def secret_in(text: str) -> bool:
    """Say whether a text names or carries a password, key, token, card, account or the like."""
    if _SECRET.search(text) or SIGN in text or find_secrets(text):
        return True
    return any(_random_looking(word) for word in _WORD.findall(text))


def suspicion(text: str) -> str | None:
    """Name the reason for quarantine, or return None for a harmless text."""
    for reason, pattern in _SUSPICIONS:
        if pattern.search(text):
            return f"speaks of {reason}"
    return None


def _random_looking(word: str) -> bool:
    classes = sum(bool(re.search(kind, word)) for kind in (r"[a-z]", r"[A-Z]", r"\d"))
    counts = Counter(word).values()
    bits = -sum(count / len(word) * math.log2(count / len(word)) for count in counts)
    return classes >= 2 and bool(re.search(r"\d", word)) and bits > 3.3
