"""Keeps what people write apart from what a chat template writes, while both are one text.

The one idea: in everything that goes into a template, the characters that steering tokens begin and
end with are replaced by characters of a private plane that nobody used; after the template ran, its
own steering tokens are found, and then the characters are put back. So no content can name a token,
nor complete one that the template begins, nor be cut and joined to one.
In an assistant's text only hidden tokens are kept from counting, and those like <|this|>, which are
marks of turns: its other visible marks (<think>, <tool_call>) are its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from homebox.errors import RequestError
from homebox.model.chat.written import written_alike
from homebox.model.tokenizer.base import Restore, Tokenizer, any_of

_PLANES = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_TURNS = ("<|", "<\uff5c")


class StandIns:
    """The replacements for one rendering; `restore` puts the characters back.

    `values` is everything that will go in: JSON values. Raises RequestError if it leaves no
    character to stand in.
    """

    def __init__(self, tokenizer: Tokenizer, values: Any) -> None:
        bare = [text.strip() for text in tokenizer.special]
        ends = dict.fromkeys([*(text[:1] for text in bare), *(text[-1:] for text in bare)])
        ends.pop("", None)
        used = {ord(c) for text in _texts(values) for c in set(text) if c >= "\U000f0000"}
        free = list(islice(_private(used), len(ends)))
        if len(free) < len(ends):
            raise RequestError("the messages use up all private characters", param="messages")
        self._table = {ord(end): chr(code) for end, code in zip(ends, free, strict=True)}
        self.restore: Restore = {ord(stand): chr(code) for code, stand in self._table.items()}
        self._not_said = any_of(
            text
            for text, index in tokenizer.special.items()
            if index in tokenizer.hidden or text.startswith(_TURNS)
        )

    def of_others(self, value: Any) -> Any:
        """Return a JSON value in which no text holds the beginning or end of a token."""
        return _mapped(value, lambda text: text.translate(self._table))

    def of_assistant(self, value: Any) -> Any:
        """Return a JSON value in which no text holds a token that an assistant never says."""

        def keep(text: str) -> str:
            return self._not_said.sub(lambda match: match.group().translate(self._table), text)

        return _mapped(value, keep)


def _private(used: set[int]) -> Iterator[int]:
    return (code for plane in _PLANES for code in plane if code not in used)


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, Iterable):
            waiting.extend(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    try:
        return _changed(value, change)
    except RecursionError:
        raise RequestError("the messages nest too deeply", param="messages") from None


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        inner = {_changed(key, change): _changed(item, change) for key, item in value.items()}
        return written_alike(value, inner, change)
    if isinstance(value, list | tuple):
        return written_alike(value, [_changed(item, change) for item in value], change)
    return value
