"""Keeps what people write apart from what a chat template writes, while both are one text.

The one idea: in everything that goes into a template, the characters that steering tokens begin
with are replaced by characters of a private plane that nobody used; after the template ran, its own
steering tokens are found, and then the characters are put back. So no content can name a token, nor
complete one that the template begins, nor be cut and joined to one.
In an assistant's text only hidden tokens are kept from counting: its visible marks are its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from homebox.model.tokenizer_base import Restore, Tokenizer, any_of

_PLANE = range(0xF0000, 0xFFFFE)


class StandIns:
    """The replacements for one rendering; `restore` puts the characters back.

    `values` is everything that will go in: JSON values.
    """

    def __init__(self, tokenizer: Tokenizer, values: Any) -> None:
        firsts = dict.fromkeys(text.lstrip()[:1] for text in tokenizer.special)
        firsts.pop("", None)
        used = {ord(c) for text in _texts(values) for c in set(text) if c >= "\U000f0000"}
        free = (code for code in _PLANE if code not in used)
        self._table = {ord(first): chr(code) for first, code in zip(firsts, free, strict=False)}
        self.restore: Restore = {ord(stand): chr(code) for code, stand in self._table.items()}
        hidden = tokenizer.hidden
        self._hidden = any_of(text for text, index in tokenizer.special.items() if index in hidden)

    def of_others(self, value: Any) -> Any:
        """Return a JSON value in which no text holds the beginning of a token."""
        return _mapped(value, lambda text: text.translate(self._table))

    def of_assistant(self, value: Any) -> Any:
        """Return a JSON value in which no text holds a hidden token."""

        def keep(text: str) -> str:
            return self._hidden.sub(lambda match: match.group().translate(self._table), text)

        return _mapped(value, keep)


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


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
