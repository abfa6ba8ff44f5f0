"""Ends a thought that has used up its budget.

The one idea: the tokens of a thought are counted, and when there were enough, the model's own
closing mark comes next, whatever the model thinks. Invariant: other tokens count nothing.
"""

from collections.abc import Sequence

from homebox.model.guides.vocabulary import Vocabulary


class Budget:
    """How much one answer may think, in tokens; None: as much as it likes."""

    def __init__(self, vocabulary: Vocabulary, tokens: int | None) -> None:
        self._vocabulary = vocabulary
        self._left = tokens

    def count(self) -> None:
        """Take note of a token inside a thought."""
        if self._left is not None:
            self._left -= 1

    def closing(self, closes: Sequence[str]) -> list[int]:
        """Return the tokens that must close a thought now; nothing while it may go on."""
        if self._left is None or self._left > 0:
            return []
        text = closes[0]
        if text.startswith("</"):
            text = f"\n{text}\n\n"
        return self._vocabulary.tokenizer.encode_marked(text, after="text")
