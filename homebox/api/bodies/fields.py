"""How an endpoint's own fields are read, and how errors about them are told.

The one idea: rules are written once, about the fields of `ChatRequest`; an endpoint that calls a
field otherwise says so in a table, and errors name the field as its caller knows it.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from homebox.api.requests import ContentPart
from homebox.errors import RequestError

S = TypeVar("S", bound=Struct)


@contextlib.contextmanager
def told_as(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors of the block name fields as `names` says: the request's name -> the caller's."""
    try:
        yield
    except RequestError as error:
        _rename(error, names)
        raise


def _rename(error: RequestError, names: Mapping[str, str]) -> None:
    for ours in sorted(names, key=len, reverse=True):
        if error.param is not None and re.match(rf"{re.escape(ours)}(?![\w])", error.param):
            error.param = names[ours] + error.param[len(ours) :]
            error.args = (re.sub(rf"^{re.escape(ours)}(?!\w)", names[ours], str(error)),)
            return


def converted(value: Any, kind: type[S], where: str) -> S:
    """Read a part of a body; raises RequestError that names the field in it."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        path = where + place.rstrip("`").replace("[...]", "[]")
        missing = re.search(r"missing required field `(\w+)`", text)
        if missing:
            path = f"{path}.{missing.group(1)}"
            raise RequestError(f"{path} is missing", path) from None
        raise RequestError(f"{path}: {text}", path) from None


def text_of(content: str | Iterable[ContentPart] | None, where: str, kinds: Iterable[str]) -> str:
    """Return the text of a content; raises RequestError for parts that are none of `kinds`."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_text(part, f"{where}[{index}]", kinds) for index, part in enumerate(content))


def parts_of(
    content: str | list[ContentPart], where: str, kinds: Iterable[str]
) -> str | list[ContentPart]:
    """Return a content as a chat request has it; where its pieces end may tell whose they are."""
    if isinstance(content, str):
        return content
    places = (f"{where}[{index}]" for index in range(len(content)))
    return [
        ContentPart("text", _text(part, place, kinds))
        for part, place in zip(content, places, strict=True)
    ]


def _text(part: ContentPart, where: str, kinds: Iterable[str]) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if part.type not in kinds:
        raise RequestError(
            f"{where}: content of type {part.type[:100]!r} is not supported; send text", where
        )
    if text is None:
        raise RequestError(f"{where}: a part of type {part.type!r} needs text", where)
    return text


def refuse(body: Struct, reasons: Mapping[str, str]) -> None:
    """Refuse fields that would change the answer and cannot be honoured."""
    for name, reason in reasons.items():
        if getattr(body, name):
            raise RequestError(f"{name} is not supported: {reason}", name)
