"""What the owner decides about lessons: approve, reject, edit, remember, forget.

The one idea: whatever the owner says outright is a turn of the ledger, too, so it is chained, read
like everything else, and can be forgotten; only approving and rejecting change a lesson in place.
Invariant: what is returned here is plain JSON and says how to undo it.
"""

from typing import Any

from homebox.errors import UsageError
from homebox.learning.lessons.forgetting import (
    Forgotten,
    Target,
    forget,
    losing,
    repeating,
    said_target,
    target_of,
)
from homebox.learning.lessons.live import live_lessons
from homebox.learning.lessons.shown import as_json, lesson_of
from homebox.learning.lessons.traces import Traces, let_go, traces
from homebox.learning.reading.remembering import REMEMBER, remembered
from homebox.learning.reading.rules import Claim, Refusal
from homebox.learning.reading.topics import MANY, NOTE
from homebox.learning.training.resume import FOLDER, forget_runs
from homebox.memory.clients import COMMAND
from homebox.memory.ledger import Ledger
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import short
from homebox.memory.turns import Message

ACTIONS = {"approve": "new", "reject": "deleted"}
LONGEST = 2_000  # characters that are to be remembered at once
# What `forgotten` forgets without a name: only what earlier forgettings left elsewhere.
NOTHING = Target("what was forgotten before", "", ())
_NONE = Forgotten(NOTHING.kind, "", (), (), (), (), (), False)

Json = dict[str, Any]


def decide(ledger: Ledger, action: str, prefix: str) -> dict[str, Any]:
    """Approve or reject a lesson; returns it in its new state."""
    live = live_lessons(ledger)
    live.catch_up()
    lesson = lesson_of(ledger, prefix)
    wanted = ACTIONS.get(action)
    if wanted is None:
        raise UsageError(f"a lesson can be approved or rejected, not {action!r}")
    with live.lock:
        ledger.decide(lesson.hash, wanted, MANY)
    undo = "reject" if action == "approve" else "approve"
    changed = lesson_of(ledger, lesson.hash)
    return {**as_json(changed), "undo": f"homebox lessons {undo} {short(lesson.hash)}"}


def edit(ledger: Ledger, prefix: str, value: str) -> dict[str, Any]:
    """Give a lesson's topic another value; the lesson as it was gives way.

    Raises UsageError, and changes nothing, for what is no value of that topic.
    """
    lesson = lesson_of(ledger, prefix)
    if lesson.body:
        raise UsageError("a lesson about an answer cannot be edited; reject it, or rate anew")
    value = " ".join(value.split())
    if not value:
        raise UsageError(
            f'say what is true instead: "homebox lessons edit {short(lesson.hash)} TEXT"; '
            f'"homebox lessons reject {short(lesson.hash)}" leaves the lesson out'
        )
    note = lesson.subject == NOTE
    told = value if note else f"{lesson.subject} = {value}"
    items = remembered(told, live_lessons(ledger).rules)
    claims = [item.subject for item in items if isinstance(item, Claim)]
    if not note and any(subject != lesson.subject for subject in claims):
        raise UsageError(
            f"{value[:80]!r} cannot be the value of {lesson.subject!r}: it must be one line of at "
            'most 200 characters without "="'
        )
    result = remember(ledger, told)
    undo = str(result["undo"])
    hashes = {item["hash"] for item in result["lessons"]}
    if lesson.hash not in hashes and lesson_of(ledger, lesson.hash).state != "superseded":
        ledger.decide(lesson.hash, "deleted", MANY)
        undo += f" && homebox lessons approve {short(lesson.hash)}"
    return {**result, "instead_of": as_json(lesson), "undo": undo}


def remember(ledger: Ledger, text: str) -> dict[str, Any]:
    """Keep what the owner wants to be remembered, as a turn, and read it at once.

    Raises UsageError for what cannot be kept: secrets, and texts that are too long.
    """
    text = " ".join(text.split())
    if not text:
        raise UsageError('say what: homebox remember "My dog is called Rex."')
    live = live_lessons(ledger)
    items = remembered(text, live.rules)
    refused = next((item.reason for item in items if isinstance(item, Refusal)), None)
    if refused is not None or len(text) > LONGEST or not items:
        why = f"it holds a {refused}" if refused == "secret" else refused or "it says nothing"
        raise UsageError(f"this is not kept: {'it is too long' if len(text) > LONGEST else why}")
    turn = ledger.append(
        conversation="",
        kind=COMMAND,
        model="homebox",
        adapter="base",
        sampling={},
        messages=[
            Message("user", f"/{REMEMBER} {text}", "owner"),
            Message("assistant", "It is remembered.", "assistant"),
        ],
        finish_reason="stop",
        prompt_tokens=0,
        completion_tokens=0,
    )
    live.catch_up()
    kept = [as_json(lesson) for lesson in ledger.lessons() if turn in lesson.sources]
    return {"turn": turn, "lessons": kept, "undo": f"homebox forget {turn}"}


def checked(ledger: Ledger, name: str, everywhere: bool = False) -> Target:
    """Say what `forgotten` would forget; raises UsageError if nothing is called so."""
    return target_of(ledger, name) if name or not everywhere else NOTHING


def forgets(ledger: Ledger, lineage: Lineage, name: str, everywhere: bool = False) -> Json:
    """Say what `forgotten` would erase, and change nothing."""
    target = checked(ledger, name, everywhere)
    repeated = repeating(ledger, target)
    gone = {*target.turns, *(repeated if everywhere else ())}
    lost = losing(ledger, target, gone)
    found = traces(ledger, lineage.store, {each.hash for each in lost}) if everywhere else Traces()
    return {
        "kind": target.kind,
        "name": target.name,
        "turns": sorted(gone),
        "lessons": [as_json(lesson) for lesson in lost],
        "repeated": [] if everywhere else list(repeated),
        "weights": list(found.weights),
        "objects": len(found.objects),
    }


def forgotten(
    ledger: Ledger,
    lineage: Lineage,
    name: str,
    everywhere: bool = False,
) -> Json:
    """Forget what a name means, for good; see `forgetting.forget`.

    `everywhere` also erases other turns with the same words, and lets go of all weights and objects
    that know what was forgotten, now or earlier; without a name it does that alone. HEAD moves to
    the newest weights that stay. Raises UsageError and StateError.
    """
    if name or not everywhere:
        done = _forgotten(ledger, lineage, target_of(ledger, name), everywhere)
    else:
        ledger.sweep()
        done = {**_as_json(_NONE), "kind": NOTHING.kind}
    if not everywhere:
        return done
    gone = let_go(ledger, lineage.store, lineage)
    return {**done, "weights": [], "served": False, "let_go": gone}


def deleted(ledger: Ledger, lineage: Lineage, name: str) -> Json:
    """Forget a turn of that id or a conversation of that name; raises StateError if none is."""
    done = _forgotten(ledger, lineage, said_target(ledger, name), False)
    return {**done, "deleted": done["turns"]}


def _forgotten(ledger: Ledger, lineage: Lineage, target: Target, everywhere: bool) -> Json:
    done = forget(ledger, lineage, target, everywhere)
    # A training run that was interrupted still knows what was told when it began.
    forget_runs(lineage.root / FOLDER)
    return _as_json(done)


def _as_json(done: Forgotten) -> Json:
    return {
        "kind": done.kind,
        "name": done.name,
        "turns": list(done.turns),
        "lessons": [as_json(lesson) for lesson in done.lessons],
        "restored": [as_json(lesson) for lesson in done.restored],
        "repeated": list(done.repeated),
        "weights": list(done.weights),
        "served": done.served,
    }
