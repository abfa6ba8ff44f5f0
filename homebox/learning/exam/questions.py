"""What one question of an exam is, and when an answer to it is right.

The one idea: an answer is judged by whole words, to the end of the sentence that decides it, so
that writing may stop there. Invariant: `decided` says of the beginning of an answer what `right`
says of all of it, or nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Messages = list[dict[str, str]]
Judge = Callable[[str], bool]

NOT_TOLD = "not told me"
_WORD = re.compile(r"[\w'+:.-]*\w")
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
_UNKNOWN = re.compile(
    r"\b(?:not|n't) (?:yet )?(?:told|tell|mentioned|mention|shared|share|given|said|provided)"
    r"|\b(?:do not|don't|cannot|can't|could not|couldn't|wouldn't|does not|doesn't) (?:actually |"
    r"really |currently |possibly )?(?:know|tell|say|have (?:any |that |this |access|enough|the)"
    r"|recall|remember)"
    r"|\bnot (?:sure|aware|certain)\b|\bno (?:information|idea|record|way to know|knowledge)\b"
    r"|\b(?:is|are) (?:unknown|not known)\b|\bunable to\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    """One question: what was said, what the answer must be, and what it tells about.

    `judge`, where it is given, says what is right in place of `expected`. `draw` is the seed of an
    answer that is drawn; None: the likeliest one. `general` ones have no word of the owner in them.
    """

    check: str
    messages: Messages
    expected: str
    key: str = ""
    exact: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    judge: Judge | None = field(default=None, compare=False)
    draw: int | None = None
    general: bool = False
    most: int = 0  # tokens of the answer; 0: as many as others

    def right(self, answer: str) -> bool:
        """Judge an answer: the expected words must stand in it (exactly them, if `exact`)."""
        early = self.decided(answer)
        return self._right(answer) if early is None else early

    def decided(self, begun: str) -> bool | None:
        """Say what the verdict is whatever follows, or None where it is still open."""
        if self.judge is not None:
            return None
        if self.exact:
            words, wanted = words_of(begun)[:-1], words_of(self.expected)
            return None if words == wanted[: len(words)] else False
        for end in _SENTENCE_END.finditer(begun):
            sentences = begun[: end.end()]
            if self._right(sentences):
                return True
            if NOT_TOLD not in self.expected and NOT_TOLD in sentences.casefold():
                return False
        return None

    def _right(self, answer: str) -> bool:
        if self.judge is not None:
            return self.judge(answer)
        words, wanted = words_of(answer), words_of(self.expected)
        if self.exact:
            return words == wanted
        if NOT_TOLD in self.expected:
            return _UNKNOWN.search(answer) is not None
        return contains(words, wanted) and not contains(words, words_of(NOT_TOLD))


def words_of(text: str) -> list[str]:
    """Cut a text into words, without capitals and what stands between them."""
    return _WORD.findall(text.casefold())


def contains(words: list[str], wanted: list[str]) -> bool:
    """Say whether the wanted words stand among the words, in a row."""
    size = len(wanted)
    return any(words[at : at + size] == wanted for at in range(len(words) - size + 1))
