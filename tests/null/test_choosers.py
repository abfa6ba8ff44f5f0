"""Tests may choose the tokens of a model that they built; nothing in the product can."""

import ast
from pathlib import Path

from homebox.config import KEYS


def settings_of(name: str, source: str) -> list[str]:
    """Return what is assigned to an attribute of that name, or set by that name in a text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr == name:
                found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr":
            found.append(ast.unparse(node))
    return found


def test_the_chooser_of_tokens_is_set_only_where_a_model_is_made(repository: Path) -> None:
    found = {
        (path.relative_to(repository).as_posix(), text)
        for path in (repository / "homebox").rglob("*.py")
        for text in settings_of("sampler", path.read_text(encoding="utf-8"))
        if "setattr" not in text or "sampler" in text
    }
    assert found == {("homebox/model/model.py", "self.sampler: MakeChooser = Sampler")}
    assert not any("sampler" in key for key in KEYS)
    # The control: what would set it is found.
    assert settings_of("sampler", "model.sampler = forced") == ["model.sampler = forced"]
    assert settings_of("sampler", "setattr(model, 'sampler', x)") != []
