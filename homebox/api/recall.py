"""What was answered lately, so that it is put back as it was when a history shows it again.

The one idea: an answer is found again by the ids of its calls, or by what it says without all that
clients change: blanks around it, the layout of arguments, reasoning. Invariant: an owner is given
answers to that owner only; memory is bounded; the ledger gives it all back after a restart.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from homebox.errors import RequestError
from homebox.memory.ledger import Ledger
from homebox.model.chat.messages import content_of
from homebox.model.chat.recall import Call, Generated, same_call, short_id

ANSWERS = 512  # that are read from the ledger
MOST = 8_192  # keys under which answers are found
MOST_IDS = 4_000_000  # of all answers, counted for each of their keys
ALIKE = 4  # answers under one key

Key = tuple[str, bytes | str]  # the owner, and a digest of what an answer says or a call's id


class MadeCall(Protocol):
    """A call as the answer's reader tells it."""

    @property
    def id(self) -> str:
        """The id that the client was told."""
        ...

    @property
    def name(self) -> str:
        """The tool's name."""
        ...

    @property
    def arguments(self) -> str:
        """The JSON text of its arguments, as the model wrote it."""
        ...


class TurnRecall:
    """The latest answers of all owners; safe for any number of threads."""

    def __init__(self, most: int = MOST, most_ids: int = MOST_IDS) -> None:
        self._most = most
        self._most_ids = most_ids
        self._found: OrderedDict[Key, tuple[Generated, ...]] = OrderedDict()
        self._ids = 0
        self._lock = threading.Lock()

    @classmethod
    def of_ledger(cls, ledger: Ledger, answers: int = ANSWERS) -> "TurnRecall":
        """Return what the last answers in the ledger were."""
        recall = cls()
        for owner, ids, message in ledger.answers(answers):
            known = message.as_chat()
            calls = [_call(call) for call in known.get("tool_calls") or ()]
            thoughts = str(known.get("reasoning_content") or "")
            made = [call for call in calls if call is not None]
            recall.add(owner, ids, message.content, made, thoughts)
        return recall

    def of(self, owner: str) -> "OwnersRecall":
        """Return what one owner was answered."""
        return OwnersRecall(self, owner)

    def add(
        self,
        owner: str,
        ids: Sequence[int],
        content: str,
        calls: Iterable[MadeCall] = (),
        thoughts: str = "",
    ) -> None:
        """Remember an answer: its ids (T,), its text, its calls in order, its reasoning."""
        made = [Call(call.id, call.name, call.arguments) for call in calls]
        if not ids:
            return
        turn = Generated(ids, made, thoughts)
        shown = [{"function": {"name": c.name, "arguments": c.arguments}} for c in made]
        keys: list[Key] = [
            (owner, said(content, shown)),
            *((owner, short_id(call.id)) for call in made),
        ]
        with self._lock:
            for key in dict.fromkeys(keys):
                alike = (turn, *self._found.pop(key, ()))
                self._ids += len(turn.ids) - sum(len(old.ids) for old in alike[ALIKE:])
                self._found[key] = alike[:ALIKE]
            while self._found and (len(self._found) > self._most or self._ids > self._most_ids):
                _, gone = self._found.popitem(last=False)
                self._ids -= sum(len(old.ids) for old in gone)

    def find(self, owner: str, message: Mapping[str, Any]) -> list[Generated]:
        """Return the answers to `owner` that a message may show, the likeliest first."""
        calls = message.get("tool_calls") or ()
        keys: list[Key] = [
            (owner, short_id(call["id"]))
            for call in calls
            if isinstance(call, Mapping) and isinstance(call.get("id"), str)
        ]
        try:
            keys.append((owner, said(content_of(message, 0), calls)))
        except RequestError:
            return []
        found: dict[Generated, int] = {}
        with self._lock:
            for key in keys:
                for turn in self._found.get(key, ()):
                    found[turn] = found.get(turn, 0) + 1
                if key in self._found:
                    self._found.move_to_end(key)
        return sorted(found, key=lambda turn: -found[turn])


class OwnersRecall:
    """What one owner was answered; see `homebox.model.chat.Recall`."""

    def __init__(self, recall: TurnRecall, owner: str) -> None:
        self._recall = recall
        self._owner = owner

    def turns(self, message: Mapping[str, Any]) -> list[Generated]:
        """Return the answers that an assistant's message may show, the likeliest first."""
        return self._recall.find(self._owner, message)


def said(content: str, calls: Iterable[Any]) -> bytes:
    """Return a digest of what a message says, however it is laid out."""
    told = [content.strip(), *(same_call(call) for call in calls)]
    return hashlib.sha256(json.dumps(told, ensure_ascii=True).encode()).digest()


def _call(call: Any) -> Call | None:
    """Read a call as the ledger keeps it."""
    try:
        function = call["function"]
        return Call(str(call.get("id", "")), str(function["name"]), str(function["arguments"]))
    except (TypeError, KeyError, AttributeError):
        return None
