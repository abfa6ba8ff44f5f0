"""Reads JSON that nobody vouches for: bounded in length, number of values and depth, no duplicates.

The one idea: decoded JSON may take 40 times the memory of its text, so values are counted before
anything is decoded. Invariant: what comes back is an object of plain JSON values.
"""

import json
import os
from pathlib import Path
from typing import Any

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.files.mapped_file import open_regular
from homebox.model.loading.mistakes import PARTS, disguise

MAX_JSON_BYTES = 1 << 20
MAX_JSON_ITEMS = 1 << 19


def read_json_file(
    path: Path, limit: int = MAX_JSON_BYTES, items: int = MAX_JSON_ITEMS
) -> dict[str, Any]:
    """Return the JSON object in `path`, refusing duplicates, NaN, other kinds and long files.

    `limit` bounds its bytes, `items` its values.
    """
    return parse_json_object(read_bytes(path, limit), str(path), items)


def read_bytes(path: Path, limit: int) -> bytes:
    """Return what a file of at most `limit` bytes holds.

    Raises ModelNotFoundError, and ModelFormatError for a longer file or one that cannot be read.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(limit + 1)
    except ModelNotFoundError:
        hint = f"; a model's folder holds {PARTS}" if path.name == "config.json" else ""
        raise ModelNotFoundError(f"{path} does not exist{hint}") from None
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise ModelFormatError(f"{path}: longer than {limit} bytes")
    return data


def parse_json_object(data: bytes, where: str, items: int = MAX_JSON_ITEMS) -> dict[str, Any]:
    """Return the JSON object that `data` holds; `where` begins the error's text."""
    # Decoded JSON may take 40 times the memory of its text ("[],[],..."), so count first.
    values = sum(data.count(mark) for mark in (b"{", b"[", b","))
    if values > items or data.count(b":") > items // 2:
        raise ModelFormatError(f"{where}: more than {items} JSON values")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ModelFormatError(f"{where}: the key {show(name)} occurs twice")
        return result

    def constant(text: str) -> Any:
        raise ModelFormatError(f"{where}: {text} is not a JSON number")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError:
        raise ModelFormatError(f"{where}: not UTF-8 text") from None
    except RecursionError:
        raise ModelFormatError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise ModelFormatError(f"{where}: {disguise(data) or f'not JSON: {error}'}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}: holds no JSON object")
    return value


def show(value: Any) -> str:
    """Return a short printable form of a value from a file that nobody vouches for."""
    if isinstance(value, str):
        value = value[:60]
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
