"""What every tokenizer offers, whatever file its vocabulary came from, and the decoder for streams.

The one idea: text is data. Pieces that steer the model (roles, end of turn, begin, end) are never
produced by encoding text, whatever the text says; only code that names their ids inserts them.
Invariant: the texts that a `StreamDecoder` gives out, joined, are what `decode` returns.
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

from homebox.errors import RequestError

# Added pieces are matched inside text. Ordinary ones ("\n", runs of spaces) may be; those that look
# like a mark of a chat format may not.
MARK = re.compile(r"<[^<>\s\u2581]+>|\[/?[A-Za-z_]+\]")
# Marks that stand inside an answer and belong to its text; what follows is for a program to read.
CALL_MARKS = ("<tool_call>", "</tool_call>")

Restore = Mapping[int, str]  # as in str.translate
After = Literal["", "text", "mark"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a model's files say about the use of its vocabulary.

    `prefix` is None where they say nothing about a begin of text. `template` is the model's own
    chat template, `tool_template` its other one for when tools are offered, `variables` are the
    texts that they may name (bos_token, eos_token, ...).
    `marks_begin` tells whether a sentencepiece vocabulary puts its space also before a text that
    follows a steering piece, `swallowing` the pieces that swallow the blanks behind them.
    """

    prefix: tuple[int, ...] | None = None
    suffix: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()  # of tokens that end an answer
    template: str | None = None
    tool_template: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    marks_begin: bool = True
    swallowing: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Surfaces:
    """How the tokens of a vocabulary look, by id.

    `spellings` are the vocabulary's own, `data` the bytes that tokens stand for; `raw` are the ids
    of single bytes, which no rule about spaces regards as text. With `strips_space` the first space
    of a text was added by encoding, with `strips_all_spaces` all of its leading spaces are lost.
    """

    spellings: tuple[str, ...]
    data: tuple[bytes, ...]
    raw: frozenset[int] = frozenset()
    strips_space: bool = False
    strips_all_spaces: bool = False


class ChatTexts(Protocol):
    """The texts of conversations in the words of a model's own chat format."""

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        **variables: Any,
    ) -> tuple[str, Sequence[Any]]:
        """Return the text of a conversation and the spans that say who wrote each character."""
        ...


class Tokenizer(ABC):
    """A vocabulary of `size` pieces.

    `special` maps the text of each steering piece to its id; `hidden` are the ids of those that
    decoding leaves out: all but the marks that a program reads in an answer.
    """

    # Chat formats are made of tokenizers: the room that has them says here how.
    chat_texts: ClassVar[Callable[["Tokenizer"], ChatTexts]]

    def __init__(
        self,
        surfaces: Surfaces,
        special: Mapping[str, int],
        hidden: frozenset[int],
        settings: Settings,
    ) -> None:
        self.size = len(surfaces.spellings)
        self.special = dict(special)
        self.hidden = hidden
        self.settings = settings
        self.strips_space = surfaces.strips_space
        self.strips_all_spaces = surfaces.strips_all_spaces
        self._surfaces = surfaces
        self._bytes = tuple(
            b"" if index in hidden else data for index, data in enumerate(surfaces.data)
        )
        # What others made of this vocabulary, by who made it; gone when this is.
        self.derived: dict[object, Any] = {}
        self._find_marks()

    def narrow(self, size: int) -> bool:
        """Forget steering pieces beyond the `size` rows of a model's embedding.

        Some vocabularies name tokens (of images) that the model of texts has no row for. Returns
        False, and changes nothing, if other pieces are beyond it, too.
        """
        beyond = {text for text, index in self.special.items() if index >= size}
        kept = [index for index in range(size, self.size) if self._surfaces.spellings[index]]
        ends = (*(self.settings.prefix or ()), *self.settings.suffix)
        if len(kept) != len(beyond) or any(index >= size for index in ends):
            return False
        self.special = {text: i for text, i in self.special.items() if text not in beyond}
        self.hidden = frozenset(index for index in self.hidden if index < size)
        kept_ends = tuple(index for index in self.settings.end_ids if index < size)
        self.settings = replace(self.settings, end_ids=kept_ends)
        self.size = min(self.size, size)
        self._find_marks()
        return True

    def _find_marks(self) -> None:
        self.marks = self._marks = any_of(self.special)
        self._shown = any_of(text for text, i in self.special.items() if i not in self.hidden)

    @cached_property
    def chat(self) -> ChatTexts:
        """The texts of conversations; raises ModelFormatError if the files' format is broken."""
        return type(self).chat_texts(self)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Return the ids of `text`; none of them is a steering piece that the text names.

        With `add_special`, the begin and end of text that the model's files ask for surround them.
        Lone surrogates, which are no text, become U+FFFD. Raises RequestError where the
        vocabulary's rules cannot cope with the text.
        """
        ids = self._plain(repaired(text))
        if not add_special:
            return ids
        return [*(self.settings.prefix or ()), *ids, *self.settings.suffix]

    @abstractmethod
    def encode_marked(
        self, text: str, restore: Restore | None = None, after: After = ""
    ) -> list[int]:
        """Return the ids of a text in which the texts of steering pieces are those pieces.

        Only for text that this program or a template wrote. What lies between the pieces goes
        through `restore` first, so that stand-ins become text that was not looked at. `after`
        says what stands before the text: nothing, a text, or a steering piece.
        """

    @abstractmethod
    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of a text that the assistant wrote: its visible marks count."""

    @abstractmethod
    def _plain(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of `ids`; steering pieces are left out unless `special` shows them.

        Bytes that are no UTF-8 become U+FFFD. A leading space that encoding added is taken away.
        """
        decoder = StreamDecoder(self, special=special)
        return "".join(decoder.push(index) for index in ids) + decoder.flush()

    def piece(self, index: int) -> str:
        """Return the vocabulary's own spelling of a token, for people who debug."""
        return self._surfaces.spellings[index] if 0 <= index < self.size else f"<{index}>"

    def piece_bytes(self, index: int) -> bytes:
        """Return the bytes that a token stands for; none for steering and padding tokens."""
        if index < 0:
            raise RequestError(f"token id {index} is negative", param="prompt")
        return self._bytes[index] if index < self.size else b""

    def is_text(self, index: int) -> bool:
        """Tell whether the token begins the text: not a steering, padding or single-byte token."""
        return bool(self.piece_bytes(index)) and index not in self._surfaces.raw


class StreamDecoder:
    """Turns one token after another into text, and never gives out half a character.

    With `continuation`, the ids carry on a text, so that their leading space is part of it.
    Of the hidden steering pieces those in `shown` are given out, all of them with `special`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        continuation: bool = False,
        special: bool = False,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._shown = tokenizer.hidden if special else tokenizer.hidden & shown
        self._strip = tokenizer.strips_space and not continuation
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """Return the text that is complete after token `index`; may be empty."""
        if index in self._shown:
            return self._utf8.decode(b"", final=True) + self._tokenizer.piece(index)
        data = self._tokenizer.piece_bytes(index)
        if self._strip and data:
            data = self._strip_start(index, data)
        return self._utf8.decode(data)

    @property
    def pending(self) -> bool:
        """Whether a character has begun that is not complete."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)

    def _strip_start(self, index: int, data: bytes) -> bytes:
        if not self._tokenizer.is_text(index):
            self._strip = False
            return data
        if not self._tokenizer.strips_all_spaces:
            self._strip = False
            return data[1:] if data.startswith(b" ") else data
        stripped = data.lstrip(b" ")
        self._strip = not stripped
        return stripped


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the first of `texts`, the longest of those that begin there."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(re.escape(text) for text in longest_first) or r"(?!)")


def repaired(text: str) -> str:
    """Return `text` with U+FFFD for lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
