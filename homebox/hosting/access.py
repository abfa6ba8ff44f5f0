"""Who may come in: the keys of a box, and where its first one comes from."""

import os
from pathlib import Path

from homebox.api.tokens import KeyRing, open_keys
from homebox.config import Config
from homebox.errors import ConfigError


def read_token(config: Config) -> str:
    """Give the configured token, or an empty string: then the state has one.

    It is the configured one, or else the credential "token" of the service manager (systemd's
    LoadCredential), which keeps it out of files that others can read.
    """
    if config.server.token:
        return config.server.token
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / "token"
    if not folder or not path.is_file():
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the credential {path} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"the credential {path} is empty")
    return token


def keys_of(config: Config, state: Path, token: str) -> KeyRing:
    """Open the keys of a state, and make them where they are asked for.

    `token` is the configured one, or empty. Raises ConfigError if it would not be asked for.
    """
    if config.server.require_token:
        return open_keys(state, token)
    if token:
        raise ConfigError("there is a token, but server.require_token is false; choose one of them")
    return KeyRing(state)
