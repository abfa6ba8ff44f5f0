"""What forces a model's choices is reached from Python alone, by who builds the daemon himself."""

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.config import KEYS, load_config, variable
from homebox.daemon import running
from homebox.errors import ConfigError
from homebox.hosting.parts import Parts, load_model
from homebox.model.generation.sampling import Sampler
from tests.clients.forced import ForcedSampler
from tests.clients.serve_forced import TOKEN, configuration, forced_parts

NAME = "tests.clients.forced:ForcedSampler"
FIELDS = ("sampler", "forced", "forced_ids", "script", "answer", "chooser", "token_ids")


def assigned(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what is assigned to an attribute called `sampler`."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr == "sampler":
                yield node


def named(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported, and "?" where only the running program knows which."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call):
            word = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if word in ("import_module", "__import__", "eval", "exec"):
                given = node.args[0]
                yield str(given.value) if isinstance(given, ast.Constant) else "?"


def test_the_product_chooses_in_one_way_and_knows_no_other(repository: Path) -> None:
    found = []
    for path in sorted((repository / "homebox").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        found += [(path.name, ast.unparse(node)) for node in assigned(tree)]
        for module in named(tree):
            assert module != "?", f"{path} imports what it is told"
            assert module.partition(".")[0] != "tests", path
    assert found == [("model.py", "self.sampler: MakeChooser = Sampler")]


def test_the_search_finds_what_it_looks_for() -> None:
    """Control."""
    assert len([*assigned(ast.parse("model.sampler = other\nsampler = 1"))]) == 1
    assert [*named(ast.parse("import_module(config.sampler)"))] == ["?"]
    assert [*named(ast.parse("import tests.clients"))] == ["tests.clients"]


def test_no_key_and_no_variable_reaches_it(tmp_path: Path) -> None:
    assert not [key for key in KEYS if "sampler" in key or "forced" in key]
    for section in ("model", "server", "learning"):
        with pytest.raises(ConfigError):
            load_config(None, environ={variable(f"{section}.sampler"): NAME})
        file = tmp_path / "homebox.toml"
        file.write_text(f'[{section}]\nsampler = "{NAME}"\n')
        with pytest.raises(ConfigError):
            load_config(file, environ={})


@pytest.mark.parametrize("option", ["--sampler", "--forced", "--script"])
def test_no_option_reaches_it(option: str) -> None:
    command = [sys.executable, "-m", "homebox", "serve", option, NAME]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr


def test_a_loaded_model_has_the_usual_sampler(qwen3: Path, tmp_path: Path) -> None:
    config = configuration(qwen3, tmp_path)
    assert load_model(config).sampler is Sampler
    # Control: with the parts of the tests it has not.
    forced = forced_parts(qwen3).load(config).sampler
    assert forced.func is ForcedSampler


def test_no_field_of_a_request_reaches_it(qwen3: Path, tmp_path: Path) -> None:
    plain = said(qwen3, tmp_path / "plain", None, {})
    more = dict.fromkeys(FIELDS, "Hi there!")
    nested = {"extra_body": more, "metadata": more, "chat_template_kwargs": more}
    assert said(qwen3, tmp_path / "fields", None, more | nested) == plain
    # Control: the daemon of the tests says something else.
    assert said(qwen3, tmp_path / "forced", forced_parts(qwen3), {}) == "Hi there!" != plain


def said(folder: Path, state: Path, parts: Parts | None, fields: dict[str, Any]) -> str:
    """Return what a daemon answers to a question with these fields."""
    message = {"role": "user", "content": "Say hi"}
    body = {"model": "homebox", "messages": [message], "max_tokens": 12, "temperature": 0}
    config = configuration(folder, state)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, context=512))
    with running(config, parts) as box:
        answer = httpx.post(
            f"{box.url}/v1/chat/completions",
            json=body | fields,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=120,
            trust_env=False,
        )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])
