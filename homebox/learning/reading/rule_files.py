"""Rules of the owner's own: small TOML files that teach the box further wordings.

The one idea: a pattern is words as they are typed, with `{v}` for the value, `(a|b)` for one of
several words and `[x]` for what may be missing. No pattern can repeat anything, so none can take
long. Invariant: a file with a mistake is refused as a whole, by name and line; others count.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import ConfigError
from homebox.learning.reading.told import Told, cleaned

KINDS = ("fact", "preference")
MOST_BYTES = 65_536  # of one file
MOST_RULES = 1_000  # of all files
MOST_LENGTH = 300  # characters of a pattern, a subject or a fixed value
MOST_GROUPS = 8  # of (a|b) and [x] in one pattern: each may double the ways to read a clause
MOST_CLAUSE = 600  # characters of a clause that is read
_FIELDS = frozenset({"kind", "subject", "pattern", "value", "example"})
_TOKEN = re.compile(
    r"\{v\}|\((?P<one>[^()\[\]{}]*)\)|\[(?P<maybe>[^()\[\]{}]*)\]|(?P<bad>[()\[\]{}])"
)
_VALUE = r"(?P<value>\S.{0,199}?)"
_BORDER = r"(?<!\w)"


@dataclass(frozen=True)
class Rule:
    """One wording; `value` is given where the wording itself says it."""

    kind: str
    subject: str
    pattern: re.Pattern[str]
    value: str = ""

    def read(self, clause: str) -> Told | None:
        """Return what a clause tells if it has this wording."""
        clause = " ".join(clause.split()) if len(clause) <= MOST_CLAUSE else ""
        match = self.pattern.fullmatch(clause)
        if match is None:
            return None
        value = self.value or cleaned(match.group("value"))
        return Told(self.subject, value, self.kind) if value else None


@dataclass(frozen=True)
class Rules:
    """What was read from a folder: rules in the order of files, and what is wrong with others."""

    rules: tuple[Rule, ...] = ()
    problems: tuple[str, ...] = ()

    def read(self, clause: str) -> Told | None:
        """Return what the first rule that fits finds in a clause."""
        return next((found for rule in self.rules if (found := rule.read(clause))), None)


NO_RULES = Rules()


def read_rules(folder: Path) -> Rules:
    """Read every `*.toml` of a folder, in the order of their names; none is needed."""
    rules: list[Rule] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
        try:
            found = read_rule_file(path)
            if len(rules) + len(found) > MOST_RULES:
                raise ConfigError(f"{path}: there are more than {MOST_RULES} rules in the folder")
            rules += found
        except ConfigError as error:
            problems.append(str(error))
    return Rules(tuple(rules), tuple(problems))


def read_rule_file(path: Path) -> list[Rule]:
    """Read one file of `[[rule]]` tables; raises ConfigError, which names the line."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ConfigError(f"{path}: a rule file has at most {MOST_BYTES} bytes; split it")
        text = data.decode("utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    tables = document.get("rule")
    if set(document) - {"rule"} or not isinstance(tables, list):
        raise ConfigError(f"{path}, line 1: a rule file has nothing but [[rule]] tables")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if _heads_a_rule(line)]
    rules = []
    for index, table in enumerate(tables):
        try:
            rules += _rules(table)
        except ValueError as error:
            line = lines[index] if index < len(lines) else 1
            raise ConfigError(f"{path}, line {line}: {error}") from error
    return rules


def _heads_a_rule(line: str) -> bool:
    return re.match(r"\s*\[\[\s*rule\s*\]\]", line) is not None


def _rules(table: Any) -> list[Rule]:
    """Make the rules of one table, one a pattern; raises ValueError."""
    if not isinstance(table, Mapping):
        raise ValueError("a rule is a table: write [[rule]]")
    if unknown := sorted(set(table) - _FIELDS):
        raise ValueError(f"a rule has no {unknown[0]!r}, only {', '.join(sorted(_FIELDS))}")
    kind = table.get("kind", "fact")
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, not {kind!r}")
    subject, value = _text(table, "subject"), _text(table, "value", "")
    given = table.get("pattern")
    patterns = given if isinstance(given, list) else [given]
    rules = [Rule(kind, subject, _compiled(each, bool(value)), value) for each in patterns]
    for example in _examples(table):
        if not any(rule.read(example) for rule in rules):
            raise ValueError(f"no pattern of the rule fits its example {example!r}")
    return rules


def _text(table: Mapping[str, Any], name: str, default: str | None = None) -> str:
    text = table.get(name, default)
    if not isinstance(text, str) or len(text) > MOST_LENGTH or (not text and default is None):
        raise ValueError(f"{name} must be a text of 1 to {MOST_LENGTH} characters")
    return " ".join(text.split())


def _examples(table: Mapping[str, Any]) -> Iterator[str]:
    given = table.get("example", [])
    for example in given if isinstance(given, list) else [given]:
        if not isinstance(example, str):
            raise ValueError("example must be a sentence, or a list of sentences")
        yield example.strip().rstrip(".!")


def _compiled(text: object, fixed: bool) -> re.Pattern[str]:
    """Turn a pattern into a regular expression that tries every way in little time."""
    if not isinstance(text, str) or not 0 < len(text) <= MOST_LENGTH:
        raise ValueError(f"pattern must be a text (or texts) of 1 to {MOST_LENGTH} characters")
    text = " ".join(text.split())
    if text.count("{v}") != (0 if fixed else 1):
        wanted = "no {v}, as the rule has a value" if fixed else "{v} once, or the rule a value"
        raise ValueError(f"the pattern must have {wanted}: {text!r}")
    parts, place, groups = [], 0, 0
    for match in _TOKEN.finditer(text):
        parts.append(_words(text[place : match.start()]))
        place = match.end()
        if match["bad"]:
            raise ValueError(f"{match['bad']!r} has no counterpart, or stands in another: {text!r}")
        if match.group() == "{v}":
            parts.append(_VALUE)
            continue
        groups += 1
        one = match["one"] if match["one"] is not None else match["maybe"]
        choice = "|".join(_words(word.strip()) for word in one.split("|"))
        optional = match["maybe"] is not None
        parts.append(f"(?:{choice})" if not optional else f"(?:{_BORDER}(?:{choice})(?!\\w))?")
    if groups > MOST_GROUPS:
        raise ValueError(f"a pattern has at most {MOST_GROUPS} groups: {text!r}")
    parts.append(_words(text[place:]))
    return re.compile("".join(parts), re.IGNORECASE)


def _words(text: str) -> str:
    """Match words as they are, with any blanks; around what may be missing there may be none."""
    return r"\s{0,3}".join(re.escape(part) for part in re.split(r"\s", text))
