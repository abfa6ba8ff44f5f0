"""The log of every turn with what was learned from it, and of what the owner thought of it."""

from homebox.memory.ledger.ledger import Ledger
from homebox.memory.ledger.marks import DECISION, ERASURES, MOVE
from homebox.memory.ledger.reading import LedgerReader, Outline

__all__ = ["DECISION", "ERASURES", "MOVE", "Ledger", "LedgerReader", "Outline"]
