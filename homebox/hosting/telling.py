"""What a daemon tells people and programs of the model that it serves.

Invariant: nothing here changes anything; a status may be asked for at any time, by any thread.
"""

from typing import Any

from homebox.config import Config
from homebox.hosting.chosen import choice_for
from homebox.hosting.hosted import Hosted
from homebox.hosting.hosting import Hosting
from homebox.hosting.memory import resident
from homebox.hosting.parts import plain
from homebox.hosting.standing import bare_line, learned_of
from homebox.hub.catalogue import BUILT_IN
from homebox.memory.lineage import Lineage
from homebox.memory.manifest import short


def status_of(hosting: Hosting, lineage: Lineage) -> dict[str, Any]:
    """Say what is served, as plain JSON; any thread may ask, also in the middle of a switch."""
    hosted, about, switch, door = hosting.serving, hosting.about, hosting.switch, hosting.door
    loads = [each.engine.load for each in hosting.loaded()]
    learning = hosted.engine.learning if hosted is not None else None
    return {
        **about.as_json(),
        "weights": hosted.served.current if hosted is not None else lineage.head(about.base),
        "memory": {
            **(hosted.memory() if hosted is not None else {}),
            "process": resident().all,
        },
        "learned": learned_of(lineage, about.base),
        "answering": sum(active for active, _ in loads),
        "waiting": sum(queued for _, queued in loads) + (door.waiting if door else 0),
        "learning": None if learning is None else plain(learning.progress),
        "notes": hosted.notes() if hosted is not None else None,
        "switch": None if switch is None else switch.as_json(),
        "trouble": hosting.trouble,
    }


def outcome_of(
    hosted: Hosted, lineage: Lineage, changed: bool, pause: float, problem: str
) -> dict[str, Any]:
    """Say what became of a switch, as plain JSON; `changed` is false if it was served all the time.

    Requests waited for `pause` seconds; `problem` is what is to be said last, if anything.
    """
    about, weights = hosted.about, hosted.served.current
    lines = [f"{about.model} ({short(weights)}) is served {'now' if changed else 'already'}"]
    lines += [line for line in (about.kept, *about.plan) if line]
    bare = bare_line(lineage, about.base)
    return {
        **about.as_json(),
        "weights": weights,
        "changed": changed,
        "pause_s": round(pause, 3),
        "lines": [*lines, *([bare] if bare else []), *([problem] if problem else [])],
    }


def first_steps(config: Config, model: str) -> list[str]:
    """Say how to get a real model, where nobody has named one yet and `model` is served."""
    named = "model.path" in config.given or config.configured_model != BUILT_IN
    if named or model != BUILT_IN or choice_for(config) is not None:
        return []
    return [
        "tiny is a toy that shows how this works; a real model is brought here by "
        '"homebox pull OWNER/NAME", or by "homebox import PATH" from a folder or a GGUF file',
        'then "homebox use NAME" serves it at once and from then on; "homebox models list" '
        "has the names",
    ]
