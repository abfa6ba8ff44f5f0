"""The word that tells running programs to make way."""

from homebox.engine.graph.device import HOST, Buffer
from homebox.engine.graph.dtype import i32


class StopFlag:
    """A word that is looked at between launches, by generated code too; any thread may set it."""

    def __init__(self) -> None:
        self._word = Buffer(1, i32, device=HOST)
        self.address = self._word.address

    def set(self) -> None:
        """Ask the programs that run with this flag to stop after the launch in progress."""
        self._word.array[0] = 1

    def clear(self) -> None:
        """Let programs run to their end again."""
        self._word.array[0] = 0

    def is_set(self) -> bool:
        """Whether programs are asked to stop."""
        return bool(self._word.array[0])
