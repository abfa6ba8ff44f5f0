"""What the owner can set: TOML, environment and command line, read into frozen dataclasses.

The dataclasses are the only list of keys: names, types, defaults and bounds are read from them, so
that the loader, the environment and the documented file cannot drift apart. Precedence: command
line, then `HOMEBOX_<SECTION>_<KEY>`, then the file, then the default. Unknown keys are refused.
"""

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from homebox.errors import ConfigError

CONFIG_VARIABLE = "HOMEBOX_CONFIG"
PREFIX = "HOMEBOX_"

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_DEVICE = r"(cpu(:\d+)?|cl:\d+)"

Value = str | int | float | bool
N = TypeVar("N", int, float)


def _bounded(default: N, low: N, high: N) -> N:
    """Declare a number with its allowed range, both ends included."""
    value: N = field(default=default, metadata={"low": low, "high": high})
    return value


def _chosen(default: str, *others: str) -> str:
    """Declare a text that must be one of a few."""
    value: str = field(default=default, metadata={"words": (default, *others)})
    return value


def _written(default: str, pattern: str, example: str) -> str:
    """Declare a text of a certain form."""
    value: str = field(default=default, metadata={"pattern": pattern, "example": example})
    return value


@dataclass(frozen=True)
class PathsConfig:
    """Where things lie; an empty string means the place that the XDG variables give."""

    state: str = ""
    cache: str = ""
    models: str = ""


@dataclass(frozen=True)
class ServerConfig:
    """The HTTP side."""

    host: str = "127.0.0.1"
    port: int = _bounded(4310, 0, 65535)
    lan: bool = False
    token: str = ""
    require_token: bool = True
    hosts: str = ""
    cors_origins: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    max_queue: int = _bounded(64, 1, 10_000)
    max_body_bytes: int = _bounded(16 * 1024 * 1024, 1024, 1024**3)
    max_connections: int = _bounded(256, 1, 65_536)


@dataclass(frozen=True)
class ModelConfig:
    """What is served."""

    path: str = "tiny"
    context: int = _bounded(0, 0, 1_048_576)
    slots: int = _bounded(8, 1, 256)
    rank: int = _bounded(16, 1, 256)
    weights: str = _chosen("auto", "f32", "bf16", "q8", "q4")
    activations: str = _chosen("auto", "f32", "bf16", "int8")
    device: str = _written("auto", f"auto|{_DEVICE}(,{_DEVICE})*", "auto, cpu, cl:0 or cl:0,cl:1")
    memory: int = _bounded(0, 0, 16_777_216)
    kv: str = _chosen("auto", "f32", "f16", "bf16", "q8")
    kv_memory: int = _bounded(0, 0, 16_777_216)
    prefix_disk: int = _bounded(4096, 0, 16_777_216)
    speculation: bool = True


@dataclass(frozen=True)
class LessonsConfig:
    """What is learned, and how it is used before the weights know it."""

    prompt: bool = True
    prompt_tokens: int = _bounded(1024, 0, 65_536)
    extract: str = _chosen("auto", "on", "off")
    rules: str = ""


@dataclass(frozen=True)
class LedgerConfig:
    """What is written down, and for how long."""

    redact: bool = True
    keep_days: int = _bounded(0, 0, 36_500)


@dataclass(frozen=True)
class LearningConfig:
    """The recipe of a learning run; goes into the job spec.

    0 (-1 for shares and weights of a loss) leaves a number to the model's size and to how much is
    taught; see `learning.training.recipes`.
    """

    rank: int = _bounded(0, 0, 256)
    alpha: float = _bounded(32.0, 0.01, 1024.0)
    learning_rate: float = _bounded(0.0, 0.0, 1.0)
    steps: int = _bounded(0, 0, 1_000_000)
    batch: int = _bounded(0, 0, 1024)
    length: int = _bounded(0, 0, 1024)
    negatives: float = _bounded(-1.0, -1.0, 1.0)
    replay: float = _bounded(-1.0, -1.0, 1.0)
    kl: float = _bounded(-1.0, -1.0, 100.0)
    cross: float = _bounded(-1.0, -1.0, 100.0)
    distil: float = _bounded(-1.0, -1.0, 100.0)
    prefer: float = _bounded(0.2, 0.0, 100.0)
    seed: int = _bounded(0, 0, 2**32 - 1)
    parts: int = _bounded(0, 0, 64)


@dataclass(frozen=True)
class GateConfig:
    """What a candidate must reach to be promoted."""

    recall: float = _bounded(0.95, 0.0, 1.0)
    general: float = _bounded(0.97, 0.0, 1.0)
    divergence: float = _bounded(0.10, 0.0, 100.0)
    false_claims: float = _bounded(0.08, 0.0, 1.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """When the box learns on its own."""

    enabled: bool = True
    begin: str = _written("01:00", _CLOCK, "01:00")
    end: str = _written("06:00", _CLOCK, "06:00")
    idle_minutes: float = _bounded(10.0, 0.0, 1440.0)
    max_load: float = _bounded(0.3, 0.0, 1.0)
    mains_only: bool = True
    max_minutes: int = _bounded(0, 0, 1440)
    max_watt_hours: float = _bounded(0.0, 0.0, 100_000.0)


@dataclass(frozen=True)
class Config:
    """Everything; `state_configured` is true if the file (not the command line) named the state.

    `given` has the keys that the command line or the environment set; `configured_model` is the
    model that the file, or nobody, named.
    """

    paths: PathsConfig = PathsConfig()
    server: ServerConfig = ServerConfig()
    model: ModelConfig = ModelConfig()
    lessons: LessonsConfig = LessonsConfig()
    ledger: LedgerConfig = LedgerConfig()
    learning: LearningConfig = LearningConfig()
    gate: GateConfig = GateConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    state_configured: bool = False
    given: frozenset[str] = frozenset()
    configured_model: str = ModelConfig().path

    @property
    def state_dir(self) -> Path:
        """The state directory, made absolute."""
        return _place(self.paths.state, "XDG_DATA_HOME", ".local/share")

    @property
    def cache_dir(self) -> Path:
        """The cache directory, made absolute."""
        return _place(self.paths.cache, "XDG_CACHE_HOME", ".cache")

    @property
    def models_dir(self) -> Path:
        """Where pulled and imported models lie, made absolute."""
        if self.paths.models:
            return Path(self.paths.models).expanduser().absolute()
        return self.state_dir / "models"


SECTIONS: dict[str, type] = {
    "paths": PathsConfig,
    "server": ServerConfig,
    "model": ModelConfig,
    "lessons": LessonsConfig,
    "ledger": LedgerConfig,
    "learning": LearningConfig,
    "gate": GateConfig,
    "schedule": ScheduleConfig,
}
KEYS: dict[str, "dataclasses.Field[Value]"] = {
    f"{section}.{item.name}": item
    for section, kind in SECTIONS.items()
    for item in dataclasses.fields(kind)
}


def load_config(
    path: Path | None = None,
    overrides: Mapping[str, Value | None] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration.

    `path` names a file that must exist; without it `$HOMEBOX_CONFIG` does, and without that
    `~/.config/homebox/homebox.toml` is read if it is there. `overrides` are command-line options
    by dotted key ("server.port"); None means not given. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Value] = {}
    file = _file(path, environ)
    if file is not None:
        values.update(_from_file(file))
    state_configured = bool(values.get("paths.state"))
    configured_model = str(values.get("model.path", ModelConfig().path))
    from_environment = _from_environment(environ)
    values.update(from_environment)
    keys = {*from_environment}
    if environ.get(variable("paths.state")):
        state_configured = False
    for key, given in (overrides or {}).items():
        if given is None:
            continue
        values[key] = _checked(key, given, "command line")
        if key == "paths.state":
            state_configured = False
        keys.add(key)
    sections = {
        section: kind(
            **{
                key.partition(".")[2]: value
                for key, value in values.items()
                if key.partition(".")[0] == section
            }
        )
        for section, kind in SECTIONS.items()
    }
    return Config(
        **sections,
        state_configured=state_configured,
        given=frozenset(keys),
        configured_model=configured_model,
    )


def variable(key: str) -> str:
    """Name the environment variable of a dotted key."""
    return PREFIX + key.replace(".", "_").upper()


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file")
        return path
    default = _place("", "XDG_CONFIG_HOME", ".config") / "homebox.toml"
    return default if default.is_file() else None


def _from_file(path: Path) -> dict[str, Value]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    values: dict[str, Value] = {}
    for section, content in document.items():
        if section not in SECTIONS:
            raise ConfigError(_unknown(f"[{section}]", [f"[{name}]" for name in SECTIONS], path))
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {section} must be a section: write [{section}]")
        for name, given in content.items():
            key = f"{section}.{name}"
            values[key] = _checked(key, given, str(path))
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    keys = {variable(key): key for key in KEYS}
    values: dict[str, Value] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name not in keys:
            raise ConfigError(_unknown(name, list(keys), "environment"))
        values[keys[name]] = _checked(keys[name], _parsed(keys[name], text), f"environment, {name}")
    return values


def _parsed(key: str, text: str) -> Value:
    """Read an environment variable's text as the type of its key; text that fits none stays."""
    kind = KEYS[key].type
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is int:
            return int(text)
        return float(text) if kind is float else text
    except (KeyError, ValueError):
        return text


def _checked(key: str, given: object, where: object) -> Value:
    if key not in KEYS:
        raise ConfigError(_unknown(key, list(KEYS), where))
    item = KEYS[key]
    if item.type is float and type(given) is int:
        given = float(given)
    if not isinstance(given, str | int | float | bool) or type(given) is not item.type:
        kind = getattr(item.type, "__name__", item.type)
        raise ConfigError(f"{where}: {key} must be of type {kind}, not {given!r}")
    words = item.metadata.get("words")
    if words and given not in words:
        raise ConfigError(f"{where}: {key} must be one of {', '.join(words)}, not {given!r}")
    if "pattern" in item.metadata and not re.fullmatch(item.metadata["pattern"], str(given)):
        example = item.metadata["example"]
        raise ConfigError(f"{where}: {key} must look like {example}, not {given!r}")
    if isinstance(given, int | float) and item.metadata:
        low, high = item.metadata["low"], item.metadata["high"]
        if not low <= given <= high:
            raise ConfigError(f"{where}: {key} must be from {low} to {high}, not {given!r}")
    return given


def _unknown(name: str, known: list[str], where: object) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"{where}: unknown key {name}; did you mean {nearest}?"


def _place(given: str, xdg: str, below_home: str) -> Path:
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get(xdg, "")
    # The XDG specification says that relative values are to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / below_home
    return root / "homebox"
