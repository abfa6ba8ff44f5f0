"""How long words are kept: turns older than the owner's limit lose them.

The one idea: what stands in weights or waits to be learned needs its evidence, so turns that a
living or waiting lesson names as source stay; once it is forgotten, they go, too. Invariant: the
chain stays whole, and nothing younger than the limit is touched.
"""

from datetime import UTC, datetime, timedelta

from homebox.memory.ledger import Ledger
from homebox.memory.lessons import ALIVE

_NEEDED = (*ALIVE, "quarantined", "undone", "superseded")


def expire(ledger: Ledger, keep_days: int, now: datetime) -> int:
    """Erase turns older than `keep_days` days (0: none) and return how many there were.

    `now` is a time with a zone. Raises StateError.
    """
    if keep_days < 1:
        return 0
    limit = (now.astimezone(UTC) - timedelta(days=keep_days)).isoformat(timespec="milliseconds")
    spared = {id for lesson in ledger.lessons(_NEEDED) for id in lesson.sources}
    return ledger.expire(limit.replace("+00:00", "Z"), spared)
