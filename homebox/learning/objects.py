"""Objects of the store that are canonical JSON: what one says decides its name.

The one idea: who writes such an object and who reads it need only say how it becomes plain values
and back. Invariant: equal content has one name, on every machine; what is read and does not fit is
refused by that name.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from homebox.errors import DamagedObjectError
from homebox.memory.store import Store, canonical_json

T = TypeVar("T", bound="StoredJson")


class StoredJson(ABC):
    """A value that the store can keep."""

    called: ClassVar[str]  # in errors: what the object should hold

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""

    @classmethod
    @abstractmethod
    def from_json(cls: type[T], value: dict[str, Any]) -> T:
        """Rebuild it; may raise what fields that lack or do not fit raise."""

    @property
    def hash(self) -> str:
        """The name that `save` gives."""
        return hashlib.sha256(canonical_json(self.as_json())).hexdigest()

    def save(self, store: Store) -> str:
        """Keep it durably and return its name; raises StateError."""
        return store.put(canonical_json(self.as_json()))

    @classmethod
    def load(cls: type[T], store: Store, name: str) -> T:
        """Read it again; raises the store's errors, and DamagedObjectError if it is none."""
        data = store.get(name)
        try:
            return cls.from_json(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedObjectError(
                f"object {name[:12]} holds no {cls.called}: {error}"
            ) from error
