"""Who may import whom: the direction of dependencies, read from the source without running it."""

import ast
from collections.abc import Iterator, Mapping
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
# Within a room: folder -> folders that stand above it.
ABOVE = {
    "homebox.engine.runtime": {"homebox.engine.inspection"},
    "homebox.model.tokenizer": {"homebox.model.chat"},
}


def room_of(path: Path, package: Path) -> str:
    relative = path.relative_to(package)
    return relative.parts[0].removesuffix(".py")


def names_imported(source: str, module: str) -> Iterator[str]:
    """Yield the dotted name of everything that `source`, the text of `module`, imports."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            head = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*head, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        yield from names


def imported(source: str, module: str) -> Iterator[str]:
    """Yield the room of every homebox module that `source`, the text of `module`, imports."""
    for name in names_imported(source, module):
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


def upward(source: str, module: str) -> list[str]:
    """List what a module imports of folders that stand above its own."""
    above = {name for folder in ABOVE if within(module, folder) for name in ABOVE[folder]}
    found = names_imported(source, module)
    return [name for name in found if any(within(name, folder) for folder in above)]


def within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def circles(sources: Mapping[str, str]) -> list[str]:
    """List the modules that import each other in a circle, also late or for their types only."""
    arrows: dict[str, set[str]] = {}
    for module, source in sources.items():
        # What a package gathers is imported from its modules; its face ties nothing.
        named = (name.removesuffix(".__init__") for name in names_imported(source, module))
        targets = {part for name in named for part in (name, name.rpartition(".")[0])}
        arrows[module] = targets & sources.keys() - {module}
    # Whoever imports nothing of what is left, or is imported by none of it, is in no circle.
    while True:
        imported_by_some = set().union(*arrows.values())
        free = {each for each in arrows if not arrows[each] or each not in imported_by_some}
        if not free:
            return sorted(arrows)
        arrows = {each: to - free for each, to in arrows.items() if each not in free}


def test_folders_within_a_room_import_only_what_lies_below_them(repository: Path) -> None:
    sources = modules(repository)
    for folder in {*ABOVE, *(name for names in ABOVE.values() for name in names)}:
        assert any(within(module, folder) for module in sources), folder
    assert [name for module, source in sources.items() for name in upward(source, module)] == []


def test_no_modules_import_each_other_in_a_circle(repository: Path) -> None:
    assert circles(modules(repository)) == []


def modules(repository: Path) -> dict[str, str]:
    """Read the package: the text of every module by its dotted name."""
    return {
        ".".join(path.relative_to(repository).with_suffix("").parts): path.read_text("utf-8")
        for path in sorted((repository / "homebox").rglob("*.py"))
    }


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from homebox.engine.inspection import debug", "homebox.engine.runtime.program"),
        ("def f():\n    import homebox.engine.inspection.debug", "homebox.engine.runtime.plan"),
        ("from ..chat.formats import chat_format", "homebox.model.tokenizer.base"),
        ("from ...model import chat", "homebox.model.tokenizer.base"),
    ],
)
def test_an_import_of_what_stands_above_would_be_caught(source: str, module: str) -> None:
    assert upward(source, module) != []


def test_a_circle_would_be_caught() -> None:
    sources = {
        "homebox.a": "from homebox import b",
        "homebox.b": "def f():\n    from .c import d",
        "homebox.c": "if TYPE_CHECKING:\n    from homebox.a import A",
        "homebox.above": "import homebox.a",
        "homebox.below": "import os",
    }
    assert circles(sources) == ["homebox.a", "homebox.b", "homebox.c"]
    assert circles({**sources, "homebox.c": "from homebox.below import x"}) == []


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
