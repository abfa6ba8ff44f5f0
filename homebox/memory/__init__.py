"""What the box remembers: ledger, lessons, objects, and which weights were served when.

Open a state directory with `open_state`; everything else hangs on the State that it returns.
"""

from homebox.memory.ledger import Ledger, Message, Turn, new_turn_id, now
from homebox.memory.lessons import Lesson, lesson_set_hash
from homebox.memory.lineage import Lineage, LineageEntry, Manifest, Move
from homebox.memory.provenance import may_teach, provenance_of
from homebox.memory.state import State, init_state, open_state
from homebox.memory.store import Store, canonical_json

__all__ = [
    "Ledger",
    "Lesson",
    "Lineage",
    "LineageEntry",
    "Manifest",
    "Message",
    "Move",
    "State",
    "Store",
    "Turn",
    "canonical_json",
    "init_state",
    "lesson_set_hash",
    "may_teach",
    "new_turn_id",
    "now",
    "open_state",
    "provenance_of",
]
