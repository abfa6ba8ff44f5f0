"""The keys that open one box: drawn at the first start, kept beside the memory, compared safely.

The box has one key of its own in `<state>/token` and any number of named ones, of which
`<state>/keys.json` holds only salted digests. A key that the configuration or the service manager
gives takes the place of the first. The files are looked at again when they change, so that adding
and removing needs no restart.

Invariant: comparing takes the same time whichever key is wrong, and no key is ever logged.
"""

import contextlib
import datetime
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import ConfigError, StateError
from homebox.memory.durable import explained, replace_file

try:
    import fcntl
except ImportError:  # not on Windows, where the package must import all the same
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("homebox.tokens")

TOKEN = "token"
KEYS = "keys.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST = 1000  # named keys: each one is compared with in every request
_BYTES = 32


@dataclass(frozen=True)
class Caller:
    """Who sends a request; `owner` is "" for whoever needs no key, else 16 hexadecimal digits.

    `private` says that nothing that comes with this key is written down.
    """

    owner: str = ""
    private: bool = False


@dataclass(frozen=True)
class NamedKey:
    """A key that was added: its name, its salted digest, the day it was made.

    Requests with a `private` one are off the record.
    """

    name: str
    digest: str
    made: str
    private: bool = False

    def as_json(self) -> dict[str, object]:
        """Return it as the file holds it; only private ones say so, as older files do not."""
        value: dict[str, object] = {"name": self.name, "digest": self.digest, "made": self.made}
        return {**value, "private": True} if self.private else value


class KeyRing:
    """The keys of the box whose state directory is `state`; `configured` replaces its own one."""

    def __init__(self, state: Path | None = None, configured: str = "") -> None:
        self._state = state
        self._configured = configured
        self._seen: tuple[object, ...] = ()
        self._salt = b""
        self._named: list[NamedKey] = []
        self._primary = configured
        self._failed = False
        self._refresh()

    @property
    def primary(self) -> str:
        """The key that commands on this machine use; empty before there is one."""
        self._refresh()
        return self._primary

    def find(self, given: str) -> Caller | None:
        """Say whose key this is; None if it is none. Every key is compared with in full."""
        self._refresh()
        key = given.encode("utf-8", "surrogateescape")
        digest = _digest(self._salt, b"key", key)
        right = hmac.compare_digest(digest, _digest(self._salt, b"key", self._primary.encode()))
        right &= bool(self._primary)
        private = False
        for named in self._named:
            same = hmac.compare_digest(digest.encode(), named.digest.encode())
            right |= same
            private |= same & named.private
        return Caller(_digest(self._salt, b"owner", key)[:16], private) if right else None

    def _refresh(self) -> None:
        """Read the files again if they are others than before; what cannot be read opens nothing.

        Raises StateError at the first reading alone: later the box goes on, with fewer keys.
        """
        if self._state is None:
            return
        seen = (_identity(self._state / TOKEN), _identity(self._state / KEYS))
        if seen == self._seen:
            return
        first = not self._seen
        self._seen = seen
        try:
            self._primary = self._configured or read_token_file(self._state)
            self._salt, self._named = _read_keys(self._state)
        except StateError as error:
            self._primary, self._named = self._configured, []
            if first:
                raise
            log.error("%s; no key of the state counts until then", error)


def open_keys(state: Path, configured: str = "") -> KeyRing:
    """Open the keys of a state directory; makes the salt and, unless configured, the token.

    Raises StateError if a file is damaged. Files that others may read are closed to them.
    """
    with _alone(state):
        salt, named = _read_keys(state)
        if not salt:
            _write_keys(state, secrets.token_bytes(_BYTES), named)
        if not configured and not (state / TOKEN).exists():
            _write_token(state)
    for name in (TOKEN, KEYS):
        _close_to_others(state / name)
    return KeyRing(state, configured)


def read_token_file(state: Path) -> str:
    """Read the box's own key; empty if none was made yet."""
    path = state / TOKEN
    with explained("read", path):
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return ""
    if not text or len(text.split()) != 1 or "\ufffd" in text:
        raise StateError(f'{path} is damaged; "homebox token new" makes another key')
    return text


def new_token(state: Path) -> str:
    """Put a new key of its own in the place of the box's old one, which counts no longer."""
    with _alone(state):
        return _write_token(state)


def add_key(state: Path, name: str, private: bool = False) -> str:
    """Make a key with a name; gives the key, which is kept nowhere.

    Nothing that comes with a `private` one is written down. Raises ConfigError for a bad name or
    one that is taken.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a key; take up to 64 letters, digits, dots, - and _"
        )
    with _alone(state):
        salt, named = _read_keys(state)
        if any(key.name == name for key in named):
            raise ConfigError(f'a key is called {name} already; "homebox token remove {name}"')
        if len(named) >= MOST:
            raise ConfigError(f"there are {MOST} keys already; remove those that nobody uses")
        salt = salt or secrets.token_bytes(_BYTES)
        key = secrets.token_urlsafe(_BYTES)
        made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        digest = _digest(salt, b"key", key.encode())
        _write_keys(state, salt, [*named, NamedKey(name, digest, made, private)])
    return key


def remove_key(state: Path, name: str) -> NamedKey:
    """Take a named key away; raises ConfigError if there is none of that name."""
    with _alone(state):
        salt, named = _read_keys(state)
        gone = [key for key in named if key.name == name]
        if not gone:
            known = ", ".join(key.name for key in named) or "there is none"
            raise ConfigError(f"no key is called {name!r} (known: {known})")
        _write_keys(state, salt, [key for key in named if key.name != name])
    return gone[0]


def named_keys(state: Path) -> list[NamedKey]:
    """List the named keys in the order in which they were made."""
    return _read_keys(state)[1]


def _digest(salt: bytes, purpose: bytes, key: bytes) -> str:
    # Keys are 256 random bits: there is nothing to guess that a slow hash would have to protect.
    return hmac.new(salt, purpose + b"\0" + key, hashlib.sha256).hexdigest()


def _write_token(state: Path) -> str:
    key = secrets.token_urlsafe(_BYTES)
    replace_file(state / TOKEN, f"{key}\n".encode())
    return key


def _read_keys(state: Path) -> tuple[bytes, list[NamedKey]]:
    path = state / KEYS
    with explained("read", path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return b"", []
    try:
        value: Any = json.loads(data)
        salt = bytes.fromhex(value["salt"])
        named = [_named(item) for item in value["keys"]]
        if len(salt) != _BYTES or not all(re.fullmatch("[0-9a-f]{64}", n.digest) for n in named):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StateError(
            f"{path} is damaged; restore it from a backup, or delete it and add the keys again"
        ) from None
    return salt, named


def _named(item: dict[str, Any]) -> NamedKey:
    """Read one key; raises what is wrong with it. A word that is no truth value opens nothing."""
    more = dict(item)
    private = more.pop("private", False)
    if type(private) is not bool:
        raise ValueError
    return NamedKey(**{key: str(value) for key, value in more.items()}, private=private)


def _write_keys(state: Path, salt: bytes, named: list[NamedKey]) -> None:
    value = {"salt": salt.hex(), "keys": [key.as_json() for key in named]}
    replace_file(state / KEYS, json.dumps(value, indent=1).encode() + b"\n")


def _identity(path: Path) -> object:
    """Name this version of a file: every writer makes a new file and renames it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_ctime_ns


def _close_to_others(path: Path) -> None:
    with explained("protect", path), contextlib.suppress(FileNotFoundError):
        if path.stat().st_mode & 0o077:
            log.warning("%s could be read by others; its mode is 0600 now", path)
            path.chmod(0o600)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Keep other commands from changing the keys at the same time."""
    with explained("open", state):
        handle = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
