"""Which model the next start serves: what `homebox use` was told last, kept in the state.

The file `model.json` of the state directory holds the choice, what it took the place of, and what
the configuration named at that time. The one idea: the last word counts. A model that the command
line or the environment names wins over the choice for that run; a configuration file that names
another model than when the choice was made is newer than it, and wins too.

Invariant: the file is replaced whole, and only after the model was opened.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.config import Config
from homebox.errors import DamagedObjectError, ModelNotFoundError
from homebox.hub.catalogue import BUILT_IN, Catalogue
from homebox.memory.durable import explained, replace_file
from homebox.memory.store import canonical_json
from homebox.memory.turns import now

FILE = "model.json"


@dataclass(frozen=True)
class Choice:
    """What was chosen; names are those of the catalogue, "tiny", or absolute paths."""

    name: str
    before: str  # what was served until then; what is served if the choice cannot be
    instead_of: str  # what the configuration named
    type: str = ""  # how weights are kept; empty: as configured
    context: int = 0  # tokens; 0: as configured
    time: str = dataclasses.field(default_factory=now)


def read_choice(state: Path) -> Choice | None:
    """Read the choice of a state directory; raises DamagedObjectError."""
    path = state / FILE
    with explained("read", path):
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        fields = json.loads(text)
        choice = Choice(**fields)
        if _sound(choice):
            return choice
    except (ValueError, TypeError, AttributeError):
        pass
    raise DamagedObjectError(f'{path} is damaged; remove it, and say "homebox use NAME" again')


def _sound(choice: Choice) -> bool:
    needed = (choice.name, choice.before, choice.instead_of, choice.time)
    return (
        all(isinstance(text, str) and text for text in needed)
        and isinstance(choice.type, str)
        and type(choice.context) is int
        and choice.context >= 0
    )


def write_choice(state: Path, choice: Choice) -> None:
    """Keep a choice; raises StateError, and the old one then stands."""
    replace_file(state / FILE, canonical_json(dataclasses.asdict(choice)))


def choice_for(config: Config) -> Choice | None:
    """Return the choice that a start with this configuration follows, if any."""
    if "model.path" in config.given:
        return None
    choice = read_choice(config.state_dir)
    return choice if choice is not None and choice.instead_of == config.configured_model else None


def as_chosen(config: Config) -> Config:
    """Return a configuration that names the model that the next start serves."""
    choice = choice_for(config)
    if choice is None:
        return config
    return with_model(config, choice.name, choice.type, choice.context)


def with_model(config: Config, name: str, kept: str = "", context: int = 0) -> Config:
    """Return a configuration that names another model.

    `kept` and `context` replace what is configured, but not what the command line or the
    environment gave.
    """
    changes: dict[str, Any] = {"path": path_of(config, name)}
    if kept and "model.weights" not in config.given:
        changes["weights"] = kept
    if context and "model.context" not in config.given:
        changes["context"] = context
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def path_of(config: Config, name: str) -> str:
    """Return what opens a model that is called by a name of the catalogue, or by its path."""
    if name == BUILT_IN or Path(name).is_absolute():
        return name
    catalogue = Catalogue(config.models_dir)
    return str(catalogue.find(name).path) if catalogue.has(name) else name


def name_of(config: Config, asked: str, folder: Path | None = None) -> str:
    """Return the name under which a model is remembered that somebody calls `asked`.

    A path, relative to `folder`, comes before a name of the catalogue. Raises ModelNotFoundError.
    """
    if asked == BUILT_IN:
        return asked
    path = (folder or Path.cwd()) / Path(asked).expanduser()
    if asked and path.exists():
        return listed(config, path) or str(path)
    found = Catalogue(config.models_dir)
    if found.has(asked):
        return found.find(asked).name
    known = ", ".join([BUILT_IN, *found.names()])
    raise ModelNotFoundError(
        f"there is no model {ascii(asked[:200])[1:-1]}, neither here nor as a path (known: "
        f'{known}); get one with "homebox pull", or name a folder or a GGUF file'
    )


def listed(config: Config, path: Path) -> str:
    """Return the catalogue's name of a path that lies in it, or an empty text."""
    if not path.is_relative_to(config.models_dir):
        return ""
    entries = Catalogue(config.models_dir).entries()
    return next((entry.name for entry in entries if entry.path == path), "")
