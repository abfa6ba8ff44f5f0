"""What a daemon does once a day for its ledger: lets old words go.

Invariant: what fails is logged and tried again the next day; no answer waits for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from homebox.errors import HomeboxError
from homebox.memory.ledger import Ledger
from homebox.memory.retention import expire

DAY = 24 * 60 * 60.0  # seconds
log = logging.getLogger("homebox.upkeep")


def _now() -> datetime:
    return datetime.now(UTC)


async def let_go(
    ledger: Ledger,
    keep_days: int,
    clock: Callable[[], datetime] = _now,
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Erase turns older than `keep_days` days, now and every day; 0 keeps all and returns."""
    while keep_days > 0:
        try:
            count = await asyncio.to_thread(expire, ledger, keep_days, clock())
            if count:
                log.info("%d turns older than %d days lost their words", count, keep_days)
        except HomeboxError as error:
            log.error("old turns could not be erased: %s", error)
        await wait(DAY)
