"""A conversation as the ids of a prompt, with what is known of them.

The one idea: what stands before the first words of a conversation is the same in the next one; it
is encoded once. Invariant: without recall the ids are those of `render`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from homebox.model.chat.messages import TextSpan
from homebox.model.chat.recall import Splice
from homebox.model.tokenizer.base import After, Restore, Tokenizer

HEADS = 8  # beginnings that are kept encoded
BEGUN = 256  # characters of a prompt's end that are told


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The ids (T,) of a prompt.

    The first `stable` of them say what the system and the tools are, and stay the same from one
    conversation to the next. `begun` is the end of the prompt as text, steering tokens shown: the
    format may have begun the answer.
    """

    ids: list[int]
    stable: int
    begun: str


class PromptEncoder:
    """Encodes texts with stand-ins, in pieces whose ids do not depend on what follows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._head = lru_cache(maxsize=HEADS)(self._encoded_head)

    def encode(
        self, text: str, stable: int, restore: Restore, splices: Sequence[Splice] = ()
    ) -> tuple[list[int], int]:
        """Return the ids of a text, and how many are of its first `stable` characters.

        Where there are splices, their ids stand for their pieces of the text.
        """
        stable = min([stable, *(splice.start for splice in splices)])
        cut = self._cut(text, stable)
        ids = list(self._head(text[:cut], tuple(restore.items())))
        first = len(ids)
        after: After = "mark" if cut else ""
        for splice in (*splices, Splice(len(text), len(text), ())):
            if cut < splice.start:
                ids += self._tokenizer.encode_marked(text[cut : splice.start], restore, after)
            ids += splice.ids
            if splice.ids:
                known = splice.ids[-1] in self._steering
                after = "mark" if known else "text"
            cut = splice.end
        return ids, first or self._same(ids, text[:stable], restore)

    @property
    def _steering(self) -> frozenset[int]:
        return frozenset(self._tokenizer.special.values())

    def _encoded_head(self, text: str, restore: tuple[tuple[int, str], ...]) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_marked(text, dict(restore))) if text else ()

    def _same(self, ids: list[int], text: str, restore: Restore) -> int:
        """Return how many of the ids are those of the text's beginning alone."""
        alone = self._tokenizer.encode_marked(text, restore)
        pairs = enumerate(zip(ids, alone, strict=False))
        return next((n for n, (one, other) in pairs if one != other), min(len(ids), len(alone)))

    def _cut(self, text: str, most: int) -> int:
        """Return the last place up to `most` behind a steering token that no blank follows."""
        cut = 0
        for found in self._tokenizer.marks.finditer(text, 0, most):
            if found.end() < len(text) and not text[found.end()].isspace():
                cut = found.end()
        return cut


def stable_place(spans: Sequence[TextSpan], is_system: Callable[[int], bool], end: int) -> int:
    """Return where the words of the system and the template's before the conversation end."""
    for span in spans:
        known = span.provenance in ("template", "system")
        if not known or (span.message is not None and not is_system(span.message)):
            return span.start
    return end


def begun(text: str, spans: Sequence[TextSpan]) -> str:
    """Return the end of a prompt that nobody but the template and the assistant wrote."""
    start = max(len(text) - BEGUN, 0)
    for span in spans:
        if span.provenance not in ("template", "assistant"):
            start = max(start, span.end)
    return text[start:]
