"""Agents' configuration files: read, merged without losing anything, kept as a backup, replaced.

Invariant: what was in a file is either still in it or in its backup; a file that is not plain JSON
(comments, JSON5) is never written, because its comments would be lost.
"""

import copy
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.connect.agents import Agent, Json
from homebox.connect.offer import Offer
from homebox.errors import ConfigError
from homebox.memory.durable import explained, replace_file


@dataclass(frozen=True)
class Change:
    """What is to become of a file; `commented` files are left alone."""

    path: Path
    before: Json | None  # None: there is no such file
    after: Json
    commented: bool = False

    @property
    def needed(self) -> bool:
        """Say whether anything would change."""
        return self.before != self.after


def plan(agent: Agent, offer: Offer, path: Path) -> Change:
    """Read an agent's file and put the box into it; raises ConfigError for one that is broken."""
    # A link stays: what it points to is replaced.
    path = path.expanduser().resolve()
    fragment = agent.fragment(offer)
    fresh = _with_defaults(agent.fragment(offer), agent.defaults(offer))
    with explained("read", path):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return Change(path, None, fresh)
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is no text in UTF-8; it was not touched") from None
    if not text.strip():
        return Change(path, {}, fresh)
    try:
        before = json.loads(text)
    except (ValueError, RecursionError):
        return Change(path, None, fresh, commented=True)
    if not isinstance(before, dict):
        raise ConfigError(f"{path} holds no JSON object; it was not touched")
    after = copy.deepcopy(before)
    _take_out(after, agent.owned)
    try:
        _merge(after, fragment)
        return Change(path, before, _with_defaults(after, agent.defaults(offer)))
    except TypeError as error:
        raise ConfigError(f"{path}: {error}; it was not touched") from None


def write(change: Change) -> Path | None:
    """Write the file (mode 0600: it holds a key); gives the backup of the old one, if any."""
    backup = None
    if change.before is not None:
        backup = _free_name(change.path)
        replace_file(backup, change.path.read_bytes())
    with explained("make", change.path.parent):
        change.path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(change.after, ensure_ascii=False, indent=2) + "\n"
    replace_file(change.path, text.encode())
    return backup


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.backup{i or ''}") for i in itertools.count())
    return next(name for name in names if not name.exists())


def _take_out(value: Json, keys: tuple[str, ...]) -> None:
    for key in keys[:-1]:
        inner = value.get(key)
        if not isinstance(inner, dict):
            return
        value = inner
    value.pop(keys[-1], None)


def _merge(value: Json, more: Json, where: str = "") -> None:
    """Put `more` into `value`; raises TypeError where something else than a group stands."""
    for key, new in more.items():
        if not isinstance(new, dict):
            value[key] = new
            continue
        inner = value.setdefault(key, {})
        if not isinstance(inner, dict):
            raise TypeError(f"{where}{key} is no group of settings")
        _merge(inner, new, f"{where}{key}.")


def _with_defaults(value: Json, defaults: Json) -> Json:
    """Put in what is not there; whatever is there, of any kind, stays."""
    for key, default in defaults.items():
        found: Any = value.setdefault(key, copy.deepcopy(default))
        if isinstance(found, dict) and isinstance(default, dict):
            _with_defaults(found, default)
    return value
