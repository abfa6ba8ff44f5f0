"""The generator of the built-in model's training text: documents from one seed.

The mixture follows the progress of training: first mostly copying, then one or two facts asked at
once, then everything. Copying must be practised densely before anything else is learned, and
"was I told this?" needs told and untold questions over the same context.
"""

from collections.abc import Callable, Iterator

from homebox.language.dialogues import contradicting, conversation, everyday, preferring
from homebox.language.dice import Dice
from homebox.language.practice import calculating, copying, easy, matching
from homebox.language.tools import using_tools
from homebox.language.turns import Document
from homebox.language.values import Values
from homebox.language.world import WORLD_NAMES

Writer = Callable[[Dice, Values], Document]
Mixture = tuple[tuple[Writer, float], ...]

# Up to which part of the training each mixture is used.
CURRICULUM: tuple[tuple[float, Mixture], ...] = (
    (0.08, ((copying, 0.70), (easy, 0.20), (everyday, 0.10))),
    (
        0.25,
        (
            (easy, 0.45),
            (matching, 0.20),
            (everyday, 0.19),
            (copying, 0.10),
            (preferring, 0.03),
            (calculating, 0.03),
        ),
    ),
    (
        1.0,
        (
            (matching, 0.41),
            (conversation, 0.18),
            (everyday, 0.21),
            (preferring, 0.06),
            (contradicting, 0.04),
            (using_tools, 0.04),
            (copying, 0.03),
            (calculating, 0.03),
        ),
    ),
)


class Generator:
    """Writes documents; the same seed and the same progress give the same text."""

    def __init__(self, seed: int) -> None:
        self._dice = Dice(seed)
        self._values = Values(self._dice, excluded=WORLD_NAMES)

    def document(self, progress: float) -> Document:
        """Write the next document for a training that is this far (0 to 1)."""
        mixture = next((mix for until, mix in CURRICULUM if progress < until), CURRICULUM[-1][1])
        return self._dice.weighted(mixture)(self._dice, self._values)

    def documents(self, count: int, progress: float = 1.0) -> Iterator[Document]:
        """Write `count` documents at one stage of training."""
        for _ in range(count):
            yield self.document(progress)
