"""What a learning run trains on: conversations written from lessons, with targets marked."""

from homebox.learning.examples.curated import curated
from homebox.learning.examples.example import (
    CONTEXT,
    CORRECTION,
    DEMONSTRATION,
    LESSON,
    NEGATIVE,
    POOLS,
    PREFERENCE,
    REPLAY,
    TAUGHT,
    Example,
    Examples,
    hinted,
    messages_of,
)
from homebox.learning.examples.not_told import untold, untold_relations
from homebox.learning.examples.replayed import Touching, plain_remark, replay
from homebox.learning.examples.toy_world import write_dialogues
from homebox.learning.examples.write import speaks_toy_language, write_examples

__all__ = [
    "CONTEXT",
    "CORRECTION",
    "DEMONSTRATION",
    "LESSON",
    "NEGATIVE",
    "POOLS",
    "PREFERENCE",
    "REPLAY",
    "TAUGHT",
    "Example",
    "Examples",
    "Touching",
    "curated",
    "hinted",
    "messages_of",
    "plain_remark",
    "replay",
    "speaks_toy_language",
    "untold",
    "untold_relations",
    "write_dialogues",
    "write_examples",
]
