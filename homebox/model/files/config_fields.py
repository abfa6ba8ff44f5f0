"""Typed access to the keys of a `config.json`: every value is checked where it is read.

Invariant: a failure names the file, the key and what the key may hold.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import show


class Fields:
    """Typed access to the keys of one JSON object; every failure names the file and the key.

    `shown` has other names of keys for messages, where the object was made from another file.
    """

    def __init__(
        self, raw: Mapping[str, Any], where: str, shown: Mapping[str, str] | None = None
    ) -> None:
        self.raw = raw
        self.where = where
        self._shown = shown or {}

    def fail(self, name: str, reason: str) -> NoReturn:
        """Raise the error that says what is wrong with a key."""
        raise ModelFormatError(f"{self.where}: {self._shown.get(name, name)}: {reason}")

    def get(self, name: str) -> Any:
        """Return a value as it is; None if the key is missing."""
        return self.raw.get(name)

    def completed(self, usual: Mapping[str, Any]) -> "Fields":
        """Return the same with usual values for keys that are missing."""
        return Fields({**usual, **self.raw}, self.where, self._shown)

    def part(self, name: str) -> "Fields | None":
        """Return the object under a key; None if it is missing or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(name, f"must be an object or null, not {show(value)}")
        return Fields(value, f"{self.where}: {name}")

    def choice(self, name: str, known: tuple[str, ...], default: str | None = None) -> str:
        """Return one of the known texts."""
        value = self.raw.get(name)
        if value is None:
            value = default
        if not isinstance(value, str) or value not in known:
            self.fail(name, f"{show(value)} is not supported; supported: {', '.join(known)}")
        return value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number from `low` to `high`."""
        value = self.raw.get(name)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(name, f"must be a whole number from {low} to {high}, not {show(value)}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from `low` to `high`, but never 0."""
        value = self.raw.get(name)
        if value is None:
            value = default
        if not _is_number(value) or not low <= value <= high or value == 0:
            self.fail(name, f"must be a number from {low:g} to {high:g}, not {show(value)}")
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        """Like `number`; None if the key is missing or null."""
        return None if self.raw.get(name) is None else self.number(name, low, high)

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """Return a list of `count` numbers from `low` to `high`."""
        value = self.raw.get(name)
        if not isinstance(value, list) or len(value) != count:
            self.fail(name, f"must be a list of {count} numbers")
        for item in value:
            if not _is_number(item) or not low <= item <= high or item == 0:
                self.fail(name, f"must hold numbers from {low:g} to {high:g}, not {show(item)}")
        return tuple(float(item) for item in value)

    def boolean(self, name: str, default: bool) -> bool:
        """Return true or false; null counts as missing."""
        value = self.raw.get(name)
        if value is None:
            value = default
        if not isinstance(value, bool):
            self.fail(name, f"must be true or false, not {show(value)}")
        return value

    def texts(self, name: str, count: int, known: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return a list of `count` known texts; None if the key is missing or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.fail(name, f"must be a list or null, not {show(value)}")
        if len(value) != count:
            self.fail(name, f"names {len(value)} layers, not {count}")
        for item in value:
            if not isinstance(item, str) or item not in known:
                wanted = ", ".join(known)
                self.fail(name, f"{show(item)} is not supported; supported: {wanted}")
        return tuple(value)

    def integers(self, name: str, low: int, high: int, most: int) -> tuple[int, ...] | None:
        """Return a list of at most `most` whole numbers; None if the key is missing or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > most:
            self.fail(name, f"must be a list of at most {most} whole numbers or null")
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not low <= item <= high:
                self.fail(name, f"must hold whole numbers from {low} to {high}, not {show(item)}")
        return tuple(value)

    def token(self, name: str, vocab: int) -> int | None:
        """Return a token id; None if the key is missing or null."""
        value = self.raw.get(name)
        return None if value is None else self._token(name, value, vocab)

    def tokens(self, name: str, vocab: int) -> tuple[int, ...]:
        """Return the token ids of a number, a list or null."""
        value = self.raw.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            return (self._token(name, value, vocab),)
        if len(value) > 64:
            self.fail(name, "lists more than 64 tokens")
        return tuple(dict.fromkeys(self._token(name, item, vocab) for item in value))

    def _token(self, name: str, value: Any, vocab: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab:
            self.fail(name, f"must be a token id from 0 to {vocab - 1}, not {show(value)}")
        return value


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, float):
        return not math.isnan(value)
    return isinstance(value, int) and not isinstance(value, bool)
