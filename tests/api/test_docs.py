"""The documents name every route, command, control command and exit code."""

import argparse
import re
from pathlib import Path

from homebox.cli import build_parser
from homebox.daemon import running
from tests.api.box import Box
from tests.api.fake_learner import parts
from tests.api.test_daemon import config_for


def test_every_route_is_documented(box: Box, repository: Path) -> None:
    text = (repository / "docs" / "serving.md").read_text()
    resources = box.server._runner.app.router.resources()
    routes = {
        f"`{route.method} {resource.canonical}`"
        for resource in resources
        for route in resource
        if route.method != "HEAD"
    }
    assert len(routes) >= 4
    assert [route for route in routes if route not in text] == []


def test_every_command_and_option_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "cli.md").read_text()
    (commands,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert [name for name in commands.choices if f"`homebox {name}" not in text] == []
    common = {"--help", "--state", "--config", "--json", "--model", "--context"}
    for name, parser in commands.choices.items():
        rows = "".join(row for row in text.splitlines() if f"`homebox {name}" in row)
        options = {option for action in parser._actions for option in action.option_strings}
        missing = [o for o in options - common if o.startswith("--") and o not in rows]
        assert missing == [], name


def test_exit_codes_are_the_same_in_help_and_document(repository: Path) -> None:
    text = (repository / "docs" / "cli.md").read_text()
    documented = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    helped = re.findall(r"^  (\d+)  ", build_parser().epilog or "", re.MULTILINE)
    assert documented == helped


def test_every_control_command_is_documented(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "serving.md").read_text()
    section = text.partition("## The control socket")[2]
    with running(config_for(tmp_path / "state"), parts()) as box:
        commands = box.daemon._commands()
    assert [name for name in commands if f"| `{name}` |" not in section] == []
