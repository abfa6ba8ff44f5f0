"""The documents name every command, option, key, variable and route, and what they show works."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from homebox.cli import build_parser
from homebox.config import KEYS, variable
from homebox.server import Server, ServerSettings

# Set by the service manager or the desktop, not by people.
FOREIGN = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"}


def read(repository: Path, *names: str) -> str:
    return "\n".join((repository / name).read_text(encoding="utf-8") for name in names)


def pages(repository: Path) -> list[Path]:
    """List every document: the front page, docs/, and a page in each package folder."""
    return [
        repository / "README.md",
        *sorted((repository / "docs").glob("*.md")),
        *sorted((repository / "homebox").glob("*/README.md")),
    ]


def commands() -> dict[str, argparse.ArgumentParser]:
    """Find every command with its parser."""
    (found,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(found.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Find the options of a command, a short form only where there is no long one."""
    return {
        max(action.option_strings, key=len) for action in parser._actions if action.option_strings
    }


def parses(line: str) -> bool:
    """Try a command line on the real parser."""
    try:
        build_parser().parse_args(shlex.split(line, comments=True)[1:])
    except SystemExit as end:
        return end.code == 0
    except ValueError:  # a quotation without an end
        return False
    return True


def fenced(text: str) -> Iterator[str]:
    """Yield the lines of fenced blocks, without the prompt."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            yield line.removeprefix("$ ")


def shown(text: str) -> list[str]:
    """Find the calls of homebox that a page shows whole, in blocks and in running text."""
    spans = re.findall(
        r"`(homebox [a-z][^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )
    # A synopsis has brackets; it is no call.
    found = [span for span in spans if not re.search(r"[\[\]<>]|\.\.\.", span)]
    for line in fenced(text):
        call = re.match(r"(?:\.venv/bin/)?(homebox [a-z-].*)", line)
        if call:
            found.append(call[1])
    return found


def test_every_command_and_option_is_documented(repository: Path) -> None:
    text = read(repository, "docs/cli.md")
    everywhere = text.partition("| command |")[0]
    common = set(re.findall(r"--[a-z-]+", everywhere))
    for name, parser in commands().items():
        rows = "".join(row for row in text.splitlines() if f"`homebox {name}" in row)
        assert rows, f"homebox {name} is missing"
        undocumented = [o for o in options(parser) - common if not re.search(rf"{o}\b", rows)]
        assert undocumented == [], name


def test_every_documented_option_exists(repository: Path) -> None:
    known = {"--version"} | {o for parser in commands().values() for o in options(parser)}
    for page in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        spans = " ".join(re.findall(r"`homebox ([^`]*)`", page.read_text()))
        assert set(re.findall(r"--[a-z-]+", spans)) <= known, page


def test_calls_in_documents_parse(repository: Path) -> None:
    found = [(page, call) for page in pages(repository) for call in shown(page.read_text())]
    assert len(found) > 20
    assert [(page.name, call) for page, call in found if not parses(call)] == []


@pytest.mark.parametrize(
    "page",
    [
        "```\nhomebox lern --now\n```",
        "```\n$ homebox learn --now --quickly\n```",
        "```\n.venv/bin/homebox rollback\n```",
        "Then `homebox fsck --repair` mends it.",
        '```\nhomebox chat --once "no end\n```',
    ],
)
def test_a_call_that_does_not_parse_would_be_caught(page: str) -> None:
    assert [call for call in shown(page) if not parses(call)] != []


def test_make_targets_in_documents_exist(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(repository, "Makefile"), re.MULTILINE))
    for page in pages(repository):
        text = page.read_text()
        named = set(re.findall(r"`make ([a-z-]+)`", text))
        named |= {line.split()[1] for line in fenced(text) if line.startswith("make ")}
        assert named <= targets, page


def test_examples_and_hints_in_the_program_parse(repository: Path) -> None:
    """What --help shows and what errors tell people to do are commands that exist."""
    names = "|".join(commands())
    calls = [
        call
        for parser in commands().values()
        for call in re.findall(r"homebox [^;\n]+", (parser.epilog or "").partition("example:")[2])
    ]
    for path in sorted((repository / "homebox").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                quoted = re.findall(r'"(homebox [^"]*)"', node.value)
                calls += [call for call in quoted if not re.search(r"[\[\]<>]|\.\.\.", call)]
    # A command's bare name is a mention, not a call; other sentences begin with our name too.
    hints = [call for call in calls if re.match(rf"homebox ({names}) ", call)]
    assert len(hints) >= len(commands())
    assert [call for call in hints if not parses(call)] == []


def test_exit_codes_are_the_same_in_help_and_document(repository: Path) -> None:
    text = read(repository, "docs/cli.md").replace("`", "")
    documented = re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    helped = re.findall(r"^  (\d+)  (.*)$", build_parser().epilog or "", re.MULTILINE)
    assert len(helped) > 5
    assert documented == helped


def test_every_key_is_documented_with_its_default_and_bounds(repository: Path) -> None:
    rows = re.findall(
        r"^\| `([a-z_]+\.[a-z_]+)` \|\s*(.*?)\s*\|\s*(.*?)\s*\| .+ \|$",
        read(repository, "docs/configuration.md"),
        re.MULTILINE,
    )
    assert [key for key, _, _ in rows] == list(KEYS), "a row is missing or out of order"
    for key, default, bounds in rows:
        item = KEYS[key]
        assert default == f"`{plain(item.default)}`", key
        low, high = (item.metadata.get(end) for end in ("low", "high"))
        assert bounds == ("" if low is None else f"{plain(low)} to {plain(high)}"), key


def plain(value: object) -> str:
    """Write a value as the page does, which is TOML for those that are short."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return (
        f"{value:,}".replace(",", "_") if isinstance(value, int) and value > 99_999 else str(value)
    )


def test_every_variable_is_documented(repository: Path) -> None:
    text = read(repository, "docs/configuration.md")
    read_somewhere = set()
    for path in (repository / "homebox").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        read_somewhere |= set(re.findall(r"environ(?:\.get\(|\[|\.setdefault\()\"(\w+)\"", source))
        read_somewhere |= set(re.findall(r"_VARIABLE = \"(\w+)\"", source))
    assert {"DEBUG", "NOFUSE", "HOMEBOX_CONFIG", "HOMEBOX_THREADS"} <= read_somewhere
    documented = set(re.findall(r"`([A-Z_]{4,}[A-Z])\b", text))
    assert read_somewhere - FOREIGN <= documented
    assert documented - FOREIGN <= read_somewhere | set(map(variable, KEYS)) | {
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
    }


def test_every_route_is_documented(repository: Path) -> None:
    text = read(repository, "docs/serving.md")
    server = Server(None, ServerSettings())  # type: ignore[arg-type]
    routes = {
        f"`{route.method} {resource.canonical}`"
        for resource in server._runner.app.router.resources()
        for route in resource
        if route.method != "HEAD"
    }
    assert len(routes) >= 4
    documented = set(re.findall(r"^\| (`[A-Z]+ /[^`]*`) \|", text, re.MULTILINE))
    assert documented == routes


def test_every_package_folder_has_a_page_that_names_its_files(repository: Path) -> None:
    for folder in sorted((repository / "homebox").iterdir()):
        files = {path.name for path in folder.rglob("*.py")} - {"__init__.py"}
        if not files:
            continue
        page = folder / "README.md"
        assert page.is_file(), f"{folder.name} has no README.md"
        text = page.read_text()
        assert [name for name in sorted(files) if name not in text] == [], folder.name


def test_files_that_documents_name_exist(repository: Path) -> None:
    """A name alone may lie anywhere in the repository, a path counts from the root or the page."""
    folders = ("homebox", "tests", "configs", "docs", "bench")
    files = {path.name for folder in folders for path in (repository / folder).rglob("*.*")}
    missing = []
    for page in pages(repository):
        named = re.findall(
            r"(?<![\w./~-])(?:\.\./)*\w[\w/]*\.(?:py|md|toml|service)\b", page.read_text()
        )
        missing += [
            (page.parent.name, name)
            for name in named
            if name not in files
            and not (repository / name).exists()
            and not (page.parent / name).exists()
        ]
    assert missing == []


def test_the_service_runs_a_command_that_exists(repository: Path) -> None:
    unit = read(repository, "configs/homebox.service")
    (start,) = re.findall(r"^ExecStart=/\S+/(homebox .*)$", unit, re.MULTILINE)
    assert parses(start)
    assert "--state /var/lib/homebox" in start
    # What the daemon tells the service manager must be listened to.
    assert re.search(r"^Type=notify$", unit, re.MULTILINE)
    assert re.search(r"^WatchdogSec=\d+", unit, re.MULTILINE)
    assert re.search(r"^LoadCredential=token:", unit, re.MULTILINE)
    named = set(re.findall(r"HOMEBOX_\w+", unit))
    assert named <= {variable(key) for key in KEYS}
