"""Which weights are served, which ever were, and how to get them back."""

from homebox.memory.lineage.lineage import Lineage, Move
from homebox.memory.lineage.refs import LEFT, PROMOTED, ROLLED_BACK

__all__ = ["LEFT", "PROMOTED", "ROLLED_BACK", "Lineage", "Move"]
