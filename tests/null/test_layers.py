"""Who may import whom: the direction of dependencies, read from the source without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# room -> the rooms of ours that it may import, besides itself
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "log_lines": set(),
    "config": {"errors"},
    "engine": {"errors"},
    "memory": {"errors"},
    "language": {"errors"},
    "model": {"engine", "errors"},
    "benchmarks": {"model", "engine", "errors"},
    "hub": {"model", "engine", "memory", "errors"},
    "learner": {"model", "memory", "language", "config", "errors", "learning"},
    "learning": {"model", "memory", "language", "config", "errors"},
    "listener": {"errors"},
    "control": {"errors", "listener"},
    "connect": {"control", "api", "memory", "errors"},
    "job_spec": {"memory", "errors"},
    "job": {"job_spec", "model", "language", "memory", "config", "errors"},
    # The one thread that owns the model lies below everything that asks it for something.
    "scheduler": {"model", "config", "errors"},
    "server": {"scheduler", "listener", "model", "memory", "language", "config", "errors", "api"},
    "night": {"memory", "config", "errors"},
    "hosting": {
        *("api", "scheduler", "server", "learner", "learning", "hub", "model", "memory"),
        *("config", "errors"),
    },
    "api": {"scheduler", "model", "memory", "language", "config", "errors"},
}
# These tie the rooms together and may import everything but the command line.
TOP = {"daemon", "orders", "demo", "cli", "commands", "__main__"}
PARTS_OF_CLI = {"cli", "commands", "__main__"}


def room_of(path: Path, package: Path) -> str:
    relative = path.relative_to(package)
    return relative.parts[0].removesuffix(".py")


def imported(source: str, module: str) -> Iterator[str]:
    """Yield the room of every homebox module that `source`, the text of `module`, imports."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            head = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*head, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "homebox":
                yield parts[1] if len(parts) > 1 else "__init__"


def violations(source: str, module: str, room: str) -> list[str]:
    found = []
    for target in imported(source, module):
        if target == room or target == "__version__":
            continue
        if room in TOP:
            wrong = target in PARTS_OF_CLI and room not in PARTS_OF_CLI
        else:
            wrong = target not in ALLOWED.get(room, set())
        if wrong:
            found.append(f"{module} imports homebox.{target}")
    return found


def test_rooms_import_only_what_lies_below_them(repository: Path) -> None:
    package = repository / "homebox"
    found = []
    files = sorted(package.rglob("*.py"))
    for path in files:
        module = ".".join(path.relative_to(repository).with_suffix("").parts)
        found += violations(path.read_text(encoding="utf-8"), module, room_of(path, package))
    assert len(files) > 5
    assert found == []


def test_every_room_has_a_rule(repository: Path) -> None:
    package = repository / "homebox"
    rooms = {room_of(path, package) for path in package.rglob("*.py")}
    assert rooms <= ALLOWED.keys() | TOP


@pytest.mark.parametrize(
    ("source", "module", "room"),
    [
        ("import homebox.memory.store", "homebox.engine.graph.ops", "engine"),
        ("from homebox.memory import store", "homebox.engine.graph.ops", "engine"),
        ("from homebox import memory", "homebox.engine.graph.ops", "engine"),
        ("from ... import memory", "homebox.engine.graph.ops", "engine"),
        ("from ...memory.store import Store", "homebox.engine.graph.ops", "engine"),
        ("def f():\n    from homebox import server", "homebox.learner", "learner"),
        ("from homebox.learner import learn", "homebox.server", "server"),
        ("from homebox.config import Config", "homebox.memory.state", "memory"),
        ("from homebox.engine import Tensor", "homebox.learner", "learner"),
        ("import homebox.cli", "homebox.daemon", "daemon"),
        ("from homebox.errors import HomeboxError", "homebox.newroom", "newroom"),
    ],
)
def test_a_violation_would_be_caught(source: str, module: str, room: str) -> None:
    assert violations(source, module, room) != []


@pytest.mark.parametrize(
    ("source", "module", "room"),
    [
        ("from homebox.errors import StateError", "homebox.memory.state", "memory"),
        ("from .store import Store", "homebox.memory.state", "memory"),
        ("from homebox.daemon import Daemon", "homebox.cli", "cli"),
        ("from homebox import __version__", "homebox.server", "server"),
        ("import numpy as np", "homebox.engine.graph.ops", "engine"),
    ],
)
def test_allowed_imports_are_no_violations(source: str, module: str, room: str) -> None:
    assert violations(source, module, room) == []
