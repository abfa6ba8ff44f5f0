"""A model that is served: with its engine thread, the adapters of its base, and its routes' view.

The one idea: everything that belongs to one base lives and goes together, so a switch replaces one
object by another. Invariant: `About` holds nothing of the model, so that whoever keeps it keeps no
memory of a model that has gone.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from homebox.api.acting import Lessons
from homebox.api.prompt_memory import SHARE, PromptMemory, known_by
from homebox.api.recall import TurnRecall
from homebox.api.served import Served
from homebox.api.service import Service, unguided
from homebox.config import Config
from homebox.errors import BusyError, HomeboxError
from homebox.hosting.notifier import Notifier
from homebox.hosting.parts import Parts, ServedModel
from homebox.hosting.standing import notes_line
from homebox.hosting.swapping import Swapping
from homebox.hub.catalogue import BUILT_IN
from homebox.learning.beside import NOBODY, beside
from homebox.memory.state import State
from homebox.model.guides import JsonObject, Wanted
from homebox.scheduler import Engine, Learning, Observer

log = logging.getLogger("homebox.hosting")

# Tokens of notes for the built-in model, which learned to read up to four of them: of 40 facts it
# recalls 39 when it is shown those that a question is about, and none when it is shown all.
BUILT_IN_ROOM = 48


@dataclass(frozen=True)
class About:
    """What is known of a served model, for people and programs; sizes are bytes."""

    model: str  # how it is called
    name: str  # in the catalogue, or ""
    path: str  # absolute, or "tiny"
    base: str  # its hash
    type: str  # how most weights are kept
    context: int
    device: str
    kept: str = ""
    plan: tuple[str, ...] = ()
    taken: dict[str, int] = field(default_factory=dict)  # by device, all that was planned

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        known = dataclasses.asdict(self)
        return {key: value for key, value in known.items() if key not in ("name", "taken")} | {
            "plan": list(self.plan)
        }


class Hosted:
    """One base and everything around it."""

    def __init__(
        self,
        model: ServedModel,
        config: Config,
        name: str,
        state: State,
        parts: Parts,
        notifier: Notifier,
        observer: Observer | None = None,
        lessons: Lessons | None = None,
    ) -> None:
        """`name` is the model's in the catalogue, or empty; `observer` hears how answers go.

        `lessons` is who reads turns.
        """
        self.model = model
        self.config = config
        self.current = False  # new requests come here
        self._notifier = notifier
        self.engine = Engine(
            model,
            max_active=_slots(model, config),
            max_waiting=config.server.max_queue,
            heartbeat=self._beat,
            interrupt=getattr(model, "interrupt", None),
            observer=observer,
        )
        self._read = partial(parts.read_adapter, state.store)
        self.served = Served(
            model.base_hash,
            model.adapters,
            self.engine,
            state.lineage,
            self._read,
        )
        self._swapping = Swapping(
            state.path, model.base_hash, getattr(model, "config", None), self.engine
        )
        self.about = _about(model, config, name)
        self.service = Service(
            engine=self.engine,
            served=self.served,
            prompt=model.chat.prompt,
            ledger=state.ledger,
            context=model.context,
            created=int(time.time()),
            device=self.about.device,
            name=self.about.model,
            tokenizer=getattr(model, "tokenizer", None),
            vocabulary=int(getattr(getattr(model, "config", None), "vocab_size", 0)),
            guide=getattr(model, "guide", unguided),
            recall=TurnRecall.of_ledger(state.ledger),
            lessons=lessons,
            memory=prompt_memory(model, state, config),
            model=model,
        )

    async def start(self) -> None:
        """Start the thread and load what HEAD names."""
        self.engine.start()
        await asyncio.wrap_future(self.engine.call(self.served.switch_to_head))
        # What the first answer with a grammar would wait for: about a second, once a vocabulary.
        self._warming = asyncio.get_running_loop().run_in_executor(None, self._warm_guides)

    def _warm_guides(self) -> None:
        with contextlib.suppress(HomeboxError):  # who asks for a form will hear of it
            self.service.guide(Wanted(form=JsonObject()))

    def _beat(self) -> None:
        """Give a sign of life; one that gets no requests must not speak for the one that does."""
        if self.current:
            self._notifier.beat()

    async def reload(self) -> str:
        """Serve what HEAD names; gives its hash."""
        await asyncio.wrap_future(self.engine.call(self.swap))
        return self.served.current

    def swap(self, begun: float | None = None) -> dict[str, Any] | None:
        """Serve what HEAD names, between two steps of the engine; gives what that cost (G11).

        `begun` is when answers began to wait, if that was earlier. None if nothing changed.
        """
        return self._swapping.measured(self.served.switch_to_head, self.served.current, begun)

    def placing(self, weights: str, progress: Any) -> Generator[Any, None, None]:
        """Read weights beside the answers and put them where they will be served, in short steps.

        Every step gives `progress`. Raises the store's errors; where there is no place, the swap
        has to make one.
        """
        if self.served.has(weights):
            return
        interrupt = getattr(self.model, "interrupt", None) or NOBODY
        found = yield from beside(lambda: self._read(weights), progress, interrupt)
        placing = self.served.placing(weights, *found)
        with contextlib.suppress(BusyError), contextlib.closing(placing):
            for _ in placing:
                yield progress

    async def stop_learning(self, reason: str) -> None:
        """Stop a running learning run, if any, and wait for its end."""
        learning = self.engine.stop_learning(reason)
        if learning is not None:
            await ended(learning)
            if learning.result.exception() is not None:
                log.warning("%s", reason)

    async def forget_prefixes(self) -> None:
        """Let go of kept prompts: their notes may hold what was just forgotten."""
        forget = getattr(self.model, "forget_prefixes", None)
        if forget is not None:
            await asyncio.wrap_future(self.engine.call(forget))

    async def let_go(self, weights: Iterable[str]) -> None:
        """Take weights that are gone from the disk out of the model's memory, too."""
        names = list(weights)
        await asyncio.wrap_future(self.engine.call(lambda: self.served.let_go(names)))

    def notes(self) -> dict[str, int] | None:
        """Say what lessons take of each prompt, and what the weights save; None if switched off."""
        memory = self.service.memory
        return None if memory is None else memory.saved(self.served.current).as_json()

    def tell_notes(self, report: Any) -> None:
        """Put into the report of a learning run what its weights save of each prompt."""
        notes = self.notes()
        if notes is None or not isinstance(getattr(report, "data", None), dict):
            return
        report.data["notes"] = notes
        if notes["saved_tokens"]:
            report.lines.append(f"prompts: {notes_line(notes)}")

    def memory(self) -> dict[str, int]:
        """Say what the model takes, in bytes."""
        return memory_of(self.model)


def prompt_memory(model: Any, state: State, config: Config) -> PromptMemory | None:
    """Return what puts lessons into a model's prompts; None where that is switched off."""
    room = min(config.lessons.prompt_tokens, model.context // SHARE)
    built_in = config.model.path == BUILT_IN
    if built_in:
        room = min(room, BUILT_IN_ROOM)
    if not config.lessons.prompt or not room:
        return None

    def count(text: str) -> int:
        return len(model.tokenizer.encode(text))

    def report(weights: str) -> bytes | None:
        entries = state.lineage.history(model.base_hash)
        name = next((each.report for each in reversed(entries) if each.weights == weights), None)
        return None if name is None else state.store.get(name)

    return PromptMemory(state.ledger, known_by(report), count, room, selective=built_in)


async def ended(learning: Learning) -> None:
    """Wait for the end of a learning run, whatever it was."""
    over = asyncio.wrap_future(learning.result)
    await asyncio.wait([over])
    over.exception()  # is told to whoever began the run; here nobody asks for it


def memory_of(model: Any) -> dict[str, int]:
    """Return the bytes of a model's weights, keys and values, and adapters, where it tells.

    `keys_and_values` counts what answers use now, `keys_and_values_kept` what is only kept of
    earlier ones, for which others need not wait; both together never take more than
    `keys_and_values_most`. The CPU takes memory for what was ever used, other devices for it all.
    """
    placement = getattr(model, "placement", None)
    transformer = getattr(model, "transformer", None)
    if placement is None or transformer is None:
        return {}
    pages = transformer.pages
    idle = pages.idle_pages
    used = pages.count - pages.free_pages - idle
    resident = [stage.adapters for stage in transformer.stages if stage.adapters is not None]
    return {
        "weights": sum(portion.bytes.weights for portion in placement.portions),
        "keys_and_values": used * transformer.page_bytes,
        "keys_and_values_kept": idle * transformer.page_bytes,
        "keys_and_values_most": pages.count * transformer.page_bytes,
        "adapters": sum(b.nbytes for each in resident for b in each.buffers.values()),
    }


def _slots(model: ServedModel, config: Config) -> int:
    """Return how many answers run at once: fewer than configured where memory was short."""
    count = getattr(getattr(model, "slots", None), "count", config.model.slots)
    return min(int(count), config.model.slots)


def _about(model: ServedModel, config: Config, name: str) -> About:
    placement: Any = getattr(model, "placement", None)
    path = config.model.path
    taken: dict[str, int] = {}
    for portion in placement.portions if placement is not None else ():
        device = portion.room.device.name
        taken[device] = taken.get(device, 0) + portion.bytes.total
    return About(
        model=name or model.name,
        name=name,
        path=path if path == BUILT_IN else str(Path(path).expanduser().absolute()),
        base=model.base_hash,
        type=str(getattr(model, "type", "")),
        context=model.context,
        device=placement.device if placement is not None else "cpu",
        kept=str(getattr(model, "kept", "")),
        plan=tuple(placement.table()) if placement is not None else (),
        taken=taken,
    )
