"""Looks for a word in every byte of some folders, in all the forms that files keep words in."""

import base64
import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b\x08")


def files_with(word: str, *folders: Path) -> list[str]:
    """Return the files that hold a word, sorted: plain, coded or packed."""
    forms = list(_forms(word))
    return sorted(
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and _holds(path.read_bytes(), forms)
    )


def _forms(word: str) -> Iterator[bytes]:
    plain = word.lower().encode()
    yield plain
    yield word.lower().encode("utf-16-le")
    yield word.lower().encode("utf-16-be")
    yield plain.hex().encode()


def _base64_forms(data: bytes, word: bytes) -> bool:
    """Say whether base64 text in the data holds a word, wherever in a group of three it stands."""
    for form in (word.lower(), word.upper(), word.capitalize()):
        for skipped in range(3):
            coded = base64.b64encode(b"\0" * skipped + form)
            # The first and last letters of the code depend on what stands beside the word.
            inner = coded[(0, 2, 3)[skipped] : len(coded) - 4]
            if inner and inner in data:
                return True
    return False


def _holds(data: bytes, forms: list[bytes], deep: bool = True) -> bool:
    lower = data.lower()
    if any(form in lower for form in forms) or _base64_forms(data, forms[0]):
        return True
    return deep and any(_holds(found, forms, deep=False) for found in _unpacked(data))


def _unpacked(data: bytes) -> Iterator[bytes]:
    for start in _ZLIB:
        place = data.find(start)
        while place >= 0:
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj(47).decompress(data[place:], 1 << 20)
            place = data.find(start, place + 1)
