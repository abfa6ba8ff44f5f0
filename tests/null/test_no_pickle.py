"""No file is ever read in a form that can run code: the package's source says so."""

import ast
from pathlib import Path

import pytest

# Modules that read such forms, and calls that do so unless told otherwise.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MODULES |= {"torch", "jsonpickle", "pandas"}
CALLS = {"eval", "exec"}
SWITCHES = {"allow_pickle"}


def findings(source: str) -> list[str]:
    """Return what in a source could read a pickle or run text from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [n.name for n in node.names if n.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += called(node)
    return found


def called(node: ast.Call) -> list[str]:
    """Return what is wrong with a call; `allow_pickle=False` makes numpy's reader a safe one."""
    said = {word.arg: word.value for word in node.keywords}
    off = {name for name in SWITCHES if said.get(name) is not None and is_false(said[name])}
    found = [name for name in SWITCHES if name in said and name not in off]
    match node.func:
        case ast.Name(id=name) if name in CALLS:
            found.append(name)
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load") if not off:
            found.append("numpy.load")
    return found


def is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def test_the_package_reads_no_pickle(repository: Path) -> None:
    sources = sorted((repository / "homebox").rglob("*.py"))
    assert len(sources) > 100
    found = {str(path): findings(path.read_text()) for path in sources}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import torch.serialization",
        "x = np.load(path)",
        "x = numpy.load(path, allow_pickle=True)",
        "x = np.load(path, allow_pickle=allowed)",
        "np.savez(file, allow_pickle=True)",
        "eval(text)",
        "import marshal as m",
    ],
)
def test_control_other_sources_are_found(source: str) -> None:
    assert findings(source)


def test_control_other_readers_are_good() -> None:
    assert findings("import json\nx = json.loads(text)\nx = np.frombuffer(b'')") == []
    assert findings("x = np.load(path, allow_pickle=False)") == []
