"""What one rendering of a template may use: characters, values and time.

The one idea: whatever a template makes is weighed when it is made, so that nothing can grow to more
than the limit before somebody looks. Invariant: a value that passed `weighed` is small enough to be
printed, compared and copied.
"""

import time
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError

MAX_WEIGHT = 1 << 23  # characters of one value, counted as often as they occur in it
_ITEM = 8  # characters that an item counts as
MAX_SPENT = 1 << 26  # characters that are moved in all
MAX_SECONDS = 5.0  # of computing, so that a busy machine changes nothing


class Budget:
    """What is left for one rendering; `literal` are the characters of the template's own text.

    `tracked` tells whether texts that know who said them take part (`said.py`).
    """

    def __init__(self, literal: int, tracked: bool = False) -> None:
        self.literal = literal
        self.tracked = tracked
        self._left = MAX_SPENT
        self._deadline = time.thread_time() + MAX_SECONDS

    def spend(self, characters: int) -> None:
        """Take a step that moves so many characters; raises SecurityError when all is spent."""
        self._left -= characters + 8
        if self._left < 0:
            raise SecurityError("the template makes too much text")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"the template took more than {MAX_SECONDS:g} seconds")


_current: ContextVar[Budget] = ContextVar("budget")


def current() -> Budget:
    """Return the budget of the rendering that runs in this thread."""
    return _current.get()


class Using:
    """Makes a budget the current one for a while."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> None:
        self._token = _current.set(self._budget)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def weighed(value: Any) -> Any:
    """Return `value` if it is small enough; raises SecurityError if it is not."""
    kind = type(value)
    if kind is str:
        current().spend(len(value))
        return bounded(value, len(value))
    if kind in (list, tuple, dict) or isinstance(value, str | list | tuple | dict):
        current().spend(weight(value))
    return value


def weight(value: Any) -> int:
    """Return how many characters a value has, where each item counts as a few.

    Raises SecurityError beyond the limit.
    """
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        total += _ITEM
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, dict):
            bounded(None, total + _ITEM * (len(waiting) + 2 * len(item)))
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            bounded(None, total + _ITEM * (len(waiting) + len(item)))
            waiting.extend(item)
        bounded(None, total)
    return total


def bounded(value: Any, size: int) -> Any:
    """Return `value`; raises SecurityError if `size` is beyond the limit of one value."""
    if size > MAX_WEIGHT:
        raise SecurityError("the template makes a value that is too large")
    return value
