"""Shows the whole loop on a temporary state: tell, learn, ask without any hint, roll back.

It is a client like any other: the daemon is a process of its own, everything is said and asked
over HTTP, and learning and rollback go through the control socket. What was told is asked in new
conversations, in phrasings that no lesson used, beside controls that must not change. Invariant:
the exit code is 0 only if every line of the table kept its limit.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from homebox.demo.box import Box, running_box
from homebox.demo.story import TOLD, write_questions
from homebox.demo.verdict import Marks, last_line, print_table, table_of
from homebox.learning.exam.writing import Messages

Show = Callable[[str], None]


def tell(box: Box, show: Show) -> None:
    """Tell everything, in a few conversations."""
    for conversation in TOLD:
        messages: Messages = []
        for text, _ in conversation:
            messages.append({"role": "user", "content": text})
            answer = box.ask(messages)
            messages.append({"role": "assistant", "content": answer})
            show(f"  owner: {text}\n  box:   {answer}")


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
