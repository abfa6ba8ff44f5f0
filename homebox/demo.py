"""Shows the whole loop on a temporary state: tell, learn, ask without any hint, roll back.

It is a client like any other: the daemon is a process of its own, everything is said and asked
over HTTP, and learning and rollback go through the control socket. What was told is asked in new
conversations, in phrasings that no lesson used, beside controls that must not change. Invariant:
the exit code is 0 only if every line of the table kept its limit.
"""

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from homebox.control import Client, find
from homebox.errors import DaemonError
from homebox.language.dice import Dice
from homebox.language.evaluate import evaluation_sets
from homebox.language.values import Values
from homebox.language.world import WORLD, WORLD_NAMES
from homebox.learning.exam.writing import (
    FACTS,
    RECALL,
    STRANGER,
    UNTOLD,
    WORLD_KEPT,
    Messages,
    Question,
)
from homebox.learning.examples import untold_relations
from homebox.learning.lessons.teach import Topic, form_for

# What the owner types, by conversation, and the topics with the values that it tells. None of the
# values occurs in the text that the built-in model was trained on.
TOLD: tuple[tuple[tuple[str, dict[str, str]], ...], ...] = (
    (
        ("Hi! My dog is called Quark.", {"dog's name": "Quark"}),
        ("I live in Zwolle and work as a luthier.", {"home": "Zwolle", "job": "luthier"}),
    ),
    (
        ("By the way, my sister's name is Persephone.", {"sister's name": "Persephone"}),
        ("My cat is called Dunstan.", {}),
        ("No, it is Fenwick, not Dunstan.", {"cat's name": "Fenwick"}),
    ),
    (
        ("My favourite food is okonomiyaki.", {"favourite food": "okonomiyaki"}),
        ("You should know that I'm allergic to tamarind!", {"allergy": "tamarind"}),
    ),
    (
        ("Remember that my wife is called Xiomara.", {"wife's name": "Xiomara"}),
        ("I always get up at 6:55.", {"getting up": "6:55"}),
    ),
    (
        ("my house number is 385", {"house number": "385"}),
        ("I play the bouzouki.", {"instrument": "bouzouki"}),
    ),
    (
        ("My birthday is on 16 October.", {"birthday": "16 October"}),
        ("Please call me Professor.", {"what to call me": "Professor"}),
        ("When I leave, say Gladly.", {"how to say goodbye": "Gladly"}),
    ),
)
PREFERENCES = ("what to call me", "how to say goodbye")

STRANGERS, UNTOLD_ASKED, WORLD_ASKED, FACTS_ASKED = 8, 16, 30, 30
RECALL_LEAST, WORLD_LEAST, HONEST_LEAST, FACTS_DROP, LEARN_SECONDS = 0.95, 0.95, 0.9, 0.1, 90
START_SECONDS = 120.0
SEED = 2026

Show = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """One line of the table: how many of how many were right."""

    what: str
    before: str
    learned: str
    rolled_back: str
    passed: bool
    wanted: str


class Box:
    """A daemon of its own on a temporary state, spoken to over HTTP."""

    def __init__(self, state: Path, url: str, client: Client, token: str = "") -> None:
        self.state = state
        self.client = client
        self._address = urlsplit(url)
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, messages: Messages) -> str:
        """Send one conversation to /v1/chat/completions; give the answer's text."""
        body = {"model": "homebox", "messages": messages, "max_tokens": 48, "temperature": 0}
        connection = http.client.HTTPConnection(
            self._address.hostname or "127.0.0.1", self._address.port, timeout=120
        )
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body).encode(), self._headers
            )
            response = connection.getresponse()
            data = json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DaemonError(f"the demo's daemon did not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise DaemonError(f"the demo's daemon answered {response.status}: {data}")
        return str(data["choices"][0]["message"]["content"])

    def marks(self, questions: Sequence[Question]) -> list[bool]:
        """Ask every question in a conversation of its own."""
        return [question.right(self.ask(question.messages)) for question in questions]


@contextlib.contextmanager
def running_box(model: str, device: str | None = None) -> Iterator[Box]:
    """Run `homebox serve` on a temporary state for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="homebox-demo-") as folder:
        state, config = Path(folder, "state"), Path(folder, "homebox.toml")
        config.write_text("", encoding="utf-8")
        # The owner's own configuration must not change what the demo shows.
        kept = {"HOMEBOX_CACHE_DIR", "HOMEBOX_CPU", "HOMEBOX_THREADS"}
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in kept or not name.startswith("HOMEBOX_")
        }
        options = ["--state", str(state), "--config", str(config), "--model", model]
        options += ["--device", device] if device else []
        with Path(folder, "log").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(  # our own program, our own arguments
                [sys.executable, "-m", "homebox", "serve", "--port", "0", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            try:
                yield _reached(state, process, Path(folder, "log"))
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()


def _reached(state: Path, process: "subprocess.Popen[bytes]", log: Path) -> Box:
    """Wait until the daemon listens."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        if process.poll() is not None:
            text = log.read_text(encoding="utf-8").strip() or "no message"
            raise DaemonError(f"the demo's daemon ended at once: {text}")
        client = find(state) if state.is_dir() else None
        if client is not None:
            address = client.call("address")
            return Box(state, address["url"], client, address.get("token", ""))
        time.sleep(0.05)
    raise DaemonError(f"the demo's daemon did not listen within {START_SECONDS:.0f} s")


@dataclass(frozen=True)
class Questions:
    """Everything that the demo asks."""

    recall: list[Question]
    strangers: list[Question]
    untold: list[Question]
    world: list[Question]
    facts: list[Question]


def write_questions() -> Questions:
    """Write the questions: told topics in phrasings that lessons never use, and the controls."""
    dice = Dice(SEED)
    values = Values(dice, unseen=True, excluded=WORLD_NAMES)
    told = {key: value for said in TOLD for _, facts in said for key, value in facts.items()}
    topics = [Topic(form_for(key, value), value) for key, value in told.items()]
    relations = [topic.relation for topic in topics if topic.relation is not None]
    strangers = []
    for relation in dice.sample(relations, STRANGERS):
        who = values.draw("person")
        text = dice.pick(relation.questions(who, "known"))
        strangers.append(_question(STRANGER, text, relation.untold(who), relation.key))
    return Questions(
        [_question(RECALL, dice.pick(t.questions("known")), t.value, t.key) for t in topics],
        strangers,
        [
            _question(UNTOLD, dice.pick(r.questions(None, "known")), r.untold(None), r.key)
            for r in dice.sample(untold_relations(topics), UNTOLD_ASKED)
        ],
        [
            _question(WORLD_KEPT, dice.pick(item.train), item.answer, item.topic, exact=True)
            for item in dice.sample(WORLD, WORLD_ASKED)
        ],
        [
            Question(FACTS, messages, answer, exact=True)
            for messages, answer in evaluation_sets(FACTS_ASKED, SEED)["three facts"]
        ],
    )


def _question(check: str, text: str, expected: str, key: str, exact: bool = False) -> Question:
    return Question(check, [{"role": "user", "content": text}], expected, key, exact)


def tell(box: Box, show: Show) -> None:
    """Tell everything, in a few conversations."""
    for conversation in TOLD:
        messages: Messages = []
        for text, _ in conversation:
            messages.append({"role": "user", "content": text})
            answer = box.ask(messages)
            messages.append({"role": "assistant", "content": answer})
            show(f"  owner: {text}\n  box:   {answer}")


@dataclass(frozen=True)
class Marks:
    """Which answers were right at one stage of the demonstration."""

    recall: list[bool]
    world: list[bool]
    facts: list[bool]
    untold: list[bool] = field(default_factory=list)
    strangers: list[bool] = field(default_factory=list)


def play(box: Box, show: Show, bar: Callable[[Any], None]) -> dict[str, Any]:
    """Run the demonstration; give its table and figures as plain JSON."""
    questions = write_questions()
    show("asking before anything was told ...")
    before = Marks(
        box.marks(questions.recall), box.marks(questions.world), box.marks(questions.facts)
    )
    show("telling, in a few conversations:")
    tell(box, show)
    show("learning ...")
    begun = time.monotonic()
    report = box.client.call("learn", bar)
    seconds = time.monotonic() - begun
    bar(None)
    for line in report["lines"]:
        show(f"  {line}")
    if not report["promoted"]:
        return {"passed": False, "reason": report["reason"], "report": report, "table": []}
    show("asking again, each in a conversation of its own:")
    answers = [box.ask(question.messages) for question in questions.recall]
    for question, answer in zip(questions.recall, answers, strict=True):
        show(f"  owner: {question.messages[-1]['content']}\n  box:   {answer}")
    after = Marks(
        [q.right(answer) for q, answer in zip(questions.recall, answers, strict=True)],
        box.marks(questions.world),
        box.marks(questions.facts),
        box.marks(questions.untold),
        box.marks(questions.strangers),
    )
    show("rolling back, asking once more ...")
    box.client.call("rollback", name="base", reason="the demo ends")
    table = table_of(before, after, box.marks(questions.recall))
    return {
        "passed": all(line.passed for line in table),
        "recall": sum(after.recall),
        "asked": len(after.recall),
        "seconds": round(seconds, 1),
        "report": report,
        "table": [asdict(line) for line in table],
        "answers": [
            {"question": question.messages[-1]["content"], "answer": answer, "right": right}
            for question, answer, right in zip(questions.recall, answers, after.recall, strict=True)
        ],
    }


def table_of(before: Marks, after: Marks, forgotten: list[bool]) -> list[Line]:
    """Compare the stages; `forgotten` are the told topics after the rollback."""
    honest = [*after.untold, *after.strangers]
    kept = [now for then, now in zip(before.world, after.world, strict=True) if then]
    only_learned = not any(before.recall) and not any(forgotten)
    drop = _share(before.facts) - _share(after.facts)
    return [
        Line(
            "told, asked in new words",
            _of(before.recall),
            _of(after.recall),
            _of(forgotten),
            _share(after.recall) >= RECALL_LEAST and only_learned,
            f">= {RECALL_LEAST:.0%}, else none",
        ),
        Line(
            "toy world",
            _of(before.world),
            _of(after.world),
            "",
            bool(kept) and _share(kept) >= WORLD_LEAST,
            f">= {WORLD_LEAST:.0%} kept",
        ),
        Line(
            "untold, admitted",
            "",
            _of(honest),
            "",
            _share(honest) >= HONEST_LEAST,
            f">= {HONEST_LEAST:.0%}",
        ),
        Line("  of these, of other people", "", _of(after.strangers), "", True, ""),
        Line(
            "told in the conversation",
            _of(before.facts),
            _of(after.facts),
            "",
            drop <= FACTS_DROP + 1e-9,
            f"at most {FACTS_DROP:.0%} less",
        ),
    ]


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0


def _of(marks: Sequence[bool]) -> str:
    return f"{sum(marks)}/{len(marks)}"


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """Print the table's lines in aligned columns."""
    rows = [("", "before", "learned", "rolled back", "wanted", "")]
    for line in table:
        mark = "ok" if line["passed"] else "FAILED"
        rows.append(
            (
                line["what"],
                line["before"],
                line["learned"],
                line["rolled_back"],
                line["wanted"],
                mark if line["wanted"] else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def last_line(result: dict[str, Any]) -> str:
    """Sum the demonstration up in the line that it ends with."""
    if not result["table"]:
        return f"FAIL demo: {result['reason']}"
    word = "PASS" if result["passed"] else "FAIL"
    late = "" if result["seconds"] <= LEARN_SECONDS else f", slower than {LEARN_SECONDS} s"
    return (
        f"{word} demo: recall {result['recall']}/{result['asked']} in new words, "
        f"learned in {result['seconds']:.0f} s{late}"
    )


def main(argv: Sequence[str] | None = None, as_json: bool = False) -> int:
    """Run the demonstration; 0 if everything kept its limit, 1 if not."""
    parser = argparse.ArgumentParser(prog="homebox demo", description=__doc__)
    parser.add_argument("--json", action="store_true", default=as_json)
    parser.add_argument("--model", default="tiny", help='model directory, or "tiny"')
    parser.add_argument("--device", help="where the model runs: auto, cpu, cl:0")
    options = parser.parse_args([] if argv is None else argv)
    quiet = bool(options.json)
    begun = time.monotonic()
    with running_box(options.model, options.device) as box:
        if not quiet:
            for line in box.client.call("status")["plan"]:
                _shown(line)
        result = play(box, _silent if quiet else _shown, _silent if quiet else _bar)
    result["total_seconds"] = round(time.monotonic() - begun, 1)
    if quiet:
        print(json.dumps({**result, "line": last_line(result)}, ensure_ascii=False, indent=2))
    else:
        print_table(result["table"])
        print(last_line(result))
    return 0 if result["passed"] else 1


def _silent(_: Any) -> None:
    """Show nothing."""


def _shown(text: str) -> None:
    print(text, flush=True)


def _bar(progress: Any) -> None:
    """Draw progress on a terminal; None takes it away."""
    if not sys.stderr.isatty():
        return
    line = ""
    if progress is not None:
        line = f"  {progress['stage']} {progress['done']}/{progress['total']} {progress['text']}"
    sys.stderr.write(f"\r\x1b[K{line[:100]}")
    sys.stderr.flush()
