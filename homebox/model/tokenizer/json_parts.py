"""Typed access to the parts of a decoded JSON file that nobody vouches for.

Every failure names the file and the field.
"""

from collections.abc import Mapping
from typing import Any

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import show

Raw = Mapping[str, Any]


class JsonParts:
    """Checks of parts of a file; `where` begins the text of every error."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, field: str, reason: str) -> ModelFormatError:
        """Return the error that says what is wrong with a field."""
        return ModelFormatError(f"{self.where}: {field}: {reason}")

    def part(self, raw: Raw, name: str, field: str | None = None) -> Raw:
        """Return an object."""
        value = raw.get(name)
        if not isinstance(value, dict):
            raise self.fail(field or name, f"must be an object, not {show(value)}")
        return value

    def entries(self, raw: Raw, name: str, field: str, limit: int) -> list[Any]:
        """Return a list of at most `limit` values; an absent one is empty."""
        value = raw.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > limit:
            raise self.fail(field, f"must be a list of at most {limit}")
        return value

    def flag(self, raw: Raw, name: str, field: str, default: bool = False) -> bool:
        """Return true or false; null counts as absent."""
        value = raw.get(name, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(field, f"{name} must be true or false, not {show(value)}")
        return value

    def choice(self, raw: Raw, name: str, choices: tuple[str, ...], field: str) -> str:
        """Return one of several texts."""
        value = raw.get(name)
        if value not in choices:
            raise self.fail(
                f"{field}.{name}", f"must be one of {', '.join(choices)}, not {show(value)}"
            )
        return str(value)
