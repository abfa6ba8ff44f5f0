"""What the memory tests build with."""

import hashlib
from pathlib import Path
from typing import Any

from homebox.memory.ledger import Ledger
from homebox.memory.lessons import Lesson
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.state import State
from homebox.memory.turns import Message

BASE = hashlib.sha256(b"base model").hexdigest()
MANY = frozenset({"dog's name"})  # of which several hold at once, so that each can be moved alone
OTHER = hashlib.sha256(b"another base model").hexdigest()


def lesson(value: str, **fields: Any) -> Lesson:
    plain = {"kind": "fact", "subject": "dog's name", "statement": f"My dog is called {value}."}
    return Lesson(**{**plain, "value": value, "sources": (f"turn_{value}",), **fields})


def checkpoint(state: State, text: str, base: str = BASE) -> str:
    """Put the objects of a checkpoint and return its weights hash."""
    adapter = {
        f"layers.0.q.{part}": state.store.put(f"{text} {part}".encode()) for part in ("A", "B")
    }
    job = state.store.put(f"job {text}".encode())
    return Manifest(base, adapter, job).save(state.store)


def entry(state: State, weights: str, lessons: tuple[str, ...] = (), **fields: Any) -> LineageEntry:
    base = fields.pop("base", BASE)
    plain = {
        "parent": state.lineage.head(base),
        "ledger_root": state.ledger.root(),
        "report": state.store.put(b"report"),
        "time": "2026-01-02T03:04:05.678Z",  # a clock would give the entry another name each time
        "reason": "gate passed",
    }
    return LineageEntry(**{"weights": weights, "base": base, "lessons": lessons, **plain, **fields})


def promote(state: State, text: str, *lessons: str, base: str = BASE) -> str:
    weights = checkpoint(state, text, base)
    state.lineage.promote(entry(state, weights, lessons, base=base))
    return weights


def say(ledger: Ledger, text: str, answer: str = "I see.", **fields: Any) -> str:
    plain: dict[str, Any] = {
        "conversation": "c1",
        "model": "homebox",
        "adapter": "base",
        "sampling": {"temperature": 0.0},
        "messages": (Message("user", text, "owner"), Message("assistant", answer, "assistant")),
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 2,
    }
    return ledger.append(**{**plain, **fields})


def states(state: State) -> dict[str, str]:
    """Map each lesson's value to its state."""
    return {item.value: item.state for item in state.ledger.lessons()}


def files(path: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
