"""What the kept prefixes were good for, in numbers, for people and monitors.

The one idea: everything is counted where it happens, as whole numbers that only grow. Invariant:
the reasons are a fixed set, so that another thread may read them at any time.
"""

from dataclasses import dataclass, field

HIT = "hit"  # as much was reused as there was in common
NEW = "new conversation"
SHORT = "too short"
DIFFERS = "differs"
EVICTED = "evicted"
UNREAD = "not read yet"
WEIGHTS = "other adapter"
REASONS = (HIT, NEW, SHORT, DIFFERS, EVICTED, UNREAD, WEIGHTS)


@dataclass
class PrefixStatistics:
    """Counts since the model was loaded; tokens are those of prompts."""

    lookups: int = 0
    asked: int = 0  # tokens that prompts had
    reused: int = 0  # tokens whose keys and values were there
    evictions: int = 0  # pages that were given up for others
    copies: int = 0  # shared pages that were copied before they were written
    kept_pages: int = 0  # pages that are kept now
    idle_pages: int = 0  # those of them that no answer uses
    reasons: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))

    def as_dict(self) -> dict[str, int]:
        """Return what only grows, by names that are one word, for monitors."""
        reasons = {each.replace(" ", "_"): count for each, count in self.reasons.items()}
        return {
            "lookups": self.lookups,
            "asked_tokens": self.asked,
            "reused_tokens": self.reused,
            "evicted_pages": self.evictions,
            "copied_pages": self.copies,
            **{f"reason_{each}": count for each, count in reasons.items()},
        }
