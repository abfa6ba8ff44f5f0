"""The models of a daemon: the one that serves, and how another one takes its place.

The one idea: a switch first tries to load the new model beside the old one. If memory allows that,
nobody waits: new requests go to the new model from one instant on, and the old one goes when its
last answer is over. Else new requests wait at the door, running answers end, the old model goes and
the new one is loaded. What `homebox use` was told is written down when the new model serves.

Invariant: a model that cannot be opened or does not fit is refused before anything has changed; and
if loading fails after the old one went, that one is loaded again, or the built-in one.
"""

import asyncio
import contextlib
import gc
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from homebox.api.acting import Lessons
from homebox.api.door import Door
from homebox.api.metrics import Metrics
from homebox.api.service import Service
from homebox.config import Config
from homebox.errors import (
    BusyError,
    DaemonError,
    HomeboxError,
    OutOfDeviceMemoryError,
    StateError,
)
from homebox.hosting.chosen import (
    Choice,
    as_chosen,
    choice_for,
    name_of,
    with_model,
    write_choice,
)
from homebox.hosting.hosted import About, Hosted
from homebox.hosting.loader import Loader, prepared
from homebox.hosting.memory import resident
from homebox.hosting.notifier import Notifier
from homebox.hosting.parts import Parts, loading, plain
from homebox.hosting.progress import Switch, Tell
from homebox.hosting.retiring import Retiring, freed, stopped
from homebox.hosting.standing import bare_line, learned_of
from homebox.hub.catalogue import BUILT_IN
from homebox.memory.manifest import short
from homebox.memory.state import State
from homebox.model.prefixes.prefix_folder import forget_kept_prompts

log = logging.getLogger("homebox.hosting")

DRAIN = 120.0  # seconds that a switch waits for running answers before it is given up
SWITCHED = "learning was stopped by a switch to another model; nothing was promoted"


class Hosting:
    """What a daemon serves. Everything here belongs to its event loop."""

    def __init__(
        self,
        config: Config,
        state: State,
        parts: Parts,
        notifier: Notifier,
        lessons: Lessons | None = None,
    ) -> None:
        """`config` is as it was read: the choice of `homebox use` is looked up here.

        `lessons` is who reads turns.
        """
        self._config = config
        self._state = state
        self._parts = parts
        self.metrics = Metrics()
        self._loader = Loader(config, state, parts, notifier, self.metrics, lessons)
        self._hosted: Hosted | None = None
        self._about: About | None = None  # of what serves, or of what did until a moment ago
        self._door: Door[Service] | None = None
        self._retiring = Retiring()
        self._lock = asyncio.Lock()
        self._swapping = False
        self._closing = False
        self.switch: Switch | None = None
        self.trouble = ""  # why something else is served than was asked for

    # -- what is served -------------------------------------------------------------------------

    @property
    def hosted(self) -> Hosted:
        """What serves; raises BusyError while there is nothing."""
        if self._hosted is None:
            raise BusyError("homebox is switching to another model; try again in a moment")
        return self._hosted

    @property
    def about(self) -> About:
        """What is known of the model that serves, or did until a moment ago."""
        assert self._about is not None, "nothing was ever served"
        return self._about

    def status(self) -> dict[str, Any]:
        """Say what is served, as plain JSON; any thread may ask, also in the middle of a switch."""
        hosted, about, switch, door = self._hosted, self.about, self.switch, self._door
        lineage = self._state.lineage
        loads = [each.engine.load for each in [hosted, *self._retiring] if each]
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
            "trouble": self.trouble,
        }

    def first_steps(self) -> list[str]:
        """Say how to get a real model, where nobody has named one yet."""
        config = self._config
        named = "model.path" in config.given or config.configured_model != BUILT_IN
        if named or self.about.model != BUILT_IN or choice_for(config) is not None:
            return []
        return [
            "tiny is a toy that shows how this works; a real model is brought here by "
            '"homebox pull OWNER/NAME", or by "homebox import PATH" from a folder or a GGUF file',
            'then "homebox use NAME" serves it at once and from then on; "homebox models list" '
            "has the names",
        ]

    async def forget_prefixes(self) -> None:
        """Let go of kept prompts, wherever a model is loaded, and of those of all others."""
        for hosted in [self._hosted, *self._retiring]:
            if hosted is not None:
                await hosted.forget_prefixes()
        await asyncio.to_thread(forget_kept_prompts)

    @contextlib.asynccontextmanager
    async def steady(self, wait: bool = True) -> AsyncIterator[Hosted]:
        """Keep the served model in its place for a block; raises BusyError in mid-switch.

        Without `wait`, so it does where something else keeps it.
        """
        before = self.hosted
        self.refuse_in_swap()
        if not wait and self._lock.locked():
            raise BusyError("homebox is busy with its model; try again in a moment")
        async with self._lock:
            if self._hosted is not before:
                raise BusyError("homebox has just switched to another model; ask again")
            yield before

    def refuse_in_swap(self) -> None:
        """Raise BusyError where the served model is about to change."""
        if self._swapping:
            raise BusyError("homebox is switching to another model; try again in a moment")

    # -- start and end --------------------------------------------------------------------------

    async def begin(self) -> Hosted:
        """Load what the next start was to serve, or what was served before, and say why."""
        first: HomeboxError | None = None
        for config in self._candidates():
            try:
                self._hosted = await self._load(config, {}, loading())
                self._about = self._hosted.about
                await self._hosted.start()
                self._hosted.current = True
            except HomeboxError as error:
                await self._drop()
                first = first or error
                continue
            if first is not None:
                self.trouble = f"{self.about.model} is served instead, because: {first}"
            return self._hosted
        assert first is not None
        raise first

    def through(self, door: Door[Service]) -> None:
        """Use the door of the server for switches."""
        self._door = door

    def closing(self) -> None:
        """Break off the loading of a model, if any, because the daemon stops."""
        self._closing = True

    async def close(self) -> None:
        """Stop everything at once; whoever wants answers to end waits before."""
        self._closing = True
        await self._retiring.close()
        await self._drop()

    def _candidates(self) -> list[Config]:
        """List what a start tries."""
        choice = choice_for(self._config)
        if choice is None:
            return [self._config]
        others = dict.fromkeys((choice.before, choice.instead_of))
        return [
            as_chosen(self._config),
            *(with_model(self._config, name) for name in others if name != choice.name),
        ]

    # -- switching ------------------------------------------------------------------------------

    async def use(
        self, asked: str, tell: Tell = lambda _: None, kept: str = "", context: int = 0
    ) -> dict[str, Any]:
        """Serve another model, and at the next start too; gives what became of it.

        `kept` says how weights are kept and `context` how many tokens there are, where these are
        not to be as configured.
        Raises ModelNotFoundError, ModelFormatError, OutOfDeviceMemoryError and the like, BusyError
        if a switch is under way or answers do not end; the old model then still serves.
        """
        if self.switch is not None:
            raise BusyError(f"homebox is switching to {self.switch.name} already; wait for it")
        switch = self.switch = Switch(asked, tell)
        name = ""
        try:
            name = switch.name = await asyncio.to_thread(name_of, self._config, asked)
            if self._retiring:
                switch.at("wait", "answers of the model before this one are still running")
                if not await self._retiring.over(DRAIN):
                    raise BusyError("answers of an earlier model are still running; try again")
            choice = self._choice(name, kept, context)
            config = with_model(self._config, name, kept, context)
            found = await self._switch_to(choice, config, switch)
        except HomeboxError as error:
            if name:
                self.trouble = f"the switch to {name} failed: {error}"
            raise
        finally:
            self.switch = None
        self.trouble = ""
        return found

    def _choice(self, name: str, kept: str, context: int) -> Choice:
        old = self.hosted.about
        return Choice(name, old.name or old.path, self._config.configured_model, kept, context)

    async def _switch_to(self, choice: Choice, config: Config, switch: Switch) -> dict[str, Any]:
        old = self.hosted.about
        base = await self._checked(config, old)
        if base == old.base and _alike(config, self.hosted.config):
            return self._report(False, 0.0, await self._remember(choice))
        new = await self._beside(config, old, switch)
        if new is None:
            return await self._in_its_place(choice, config, switch)
        async with self._swap():
            before = self.hosted
            await before.stop_learning(SWITCHED)
            self._serve(new)
            problem = await self._remember(choice)
        assert self._door is not None
        self._retiring.begin(before, self._door)
        return self._report(True, 0.0, problem)

    async def _checked(self, config: Config, old: About) -> str:
        """Open and plan a model as if the old one were gone; return its base hash, if known."""
        if self._parts.fit is None:
            return ""
        # The host has back only what was touched; mapped files counted as free all the time.
        anonymous = resident().anonymous
        returned = {
            device: min(taken, anonymous) if device.startswith("cpu") else taken
            for device, taken in old.taken.items()
        }
        return await asyncio.to_thread(self._parts.fit, config, returned)

    async def _beside(self, config: Config, old: About, switch: Switch) -> Hosted | None:
        """Load a model beside the one that serves, ready to answer; None if memory is short.

        One that cannot answer leaves nothing behind.
        """
        switch.at("load", "loading beside the model that serves")
        new: Hosted | None = None
        try:
            new = await self._load(config, old.taken, self._told(switch))
            await new.start()
            await prepared(new, switch)
        except BaseException as error:
            if new is not None:
                await stopped(new)
            if isinstance(error, OutOfDeviceMemoryError) and self._parts.fit is not None:
                return None
            raise
        return new

    async def _in_its_place(self, choice: Choice, config: Config, switch: Switch) -> dict[str, Any]:
        """Let the old model go first, because memory does not hold both."""
        async with self._swap():
            assert self._door is not None
            self._door.close()
            closed, before = time.monotonic(), self.hosted.config
            try:
                await self._empty(switch)
            except BaseException:
                self._door.open(self.hosted.service)
                raise
            switch.at("load", "loading; new requests wait")
            failure = await self._first_that_loads(config, before, switch)
            self._serve(self.hosted)
            pause = time.monotonic() - closed
            if failure is not None:
                raise failure
            problem = await self._remember(choice)
        return self._report(True, pause, problem)

    async def _empty(self, switch: Switch) -> None:
        """Wait for running answers and let the old model go."""
        assert self._door is not None
        service = self.hosted.service
        switch.at("drain", "waiting for running answers; memory does not hold both models")
        if not await self._door.left(service, DRAIN):
            raise BusyError(
                f"{self._door.users(service)} answers are still running after {DRAIN:.0f} seconds, "
                "and memory does not hold both models; nothing was changed, try again later"
            )
        await self.hosted.stop_learning(SWITCHED)
        del service
        model = weakref.ref(self.hosted.model)
        await self._drop()
        await freed(model)

    async def _first_that_loads(
        self, config: Config, before: Config, switch: Switch
    ) -> HomeboxError | None:
        """Load the new model, else the old one, else the built-in one; return what went wrong."""
        candidates = [config, before, with_model(self._config, BUILT_IN)]
        first: HomeboxError | None = None
        for candidate in candidates:
            try:
                self._hosted = await self._load(candidate, {}, self._told(switch))
                await self._hosted.start()
                return first
            except Exception as error:
                await self._drop()
                if self._closing:
                    raise
                log.warning("%s cannot be served: %s", candidate.model.path, error)
                known = error if isinstance(error, HomeboxError) else HomeboxError(repr(error))
                first = first or known
                switch.at("load", "the new model cannot be loaded; going back")
        assert self._door is not None and first is not None
        self._door.refuse(DaemonError(f"no model can be served: {first}; restart homebox"))
        raise first

    # -- steps ----------------------------------------------------------------------------------

    async def _load(
        self, config: Config, taken: Mapping[str, int], tell: Callable[[int, int], None]
    ) -> Hosted:
        return await self._loader.load(config, taken, tell, alone=self._hosted is None)

    def _told(self, switch: Switch) -> Callable[[int, int], None]:
        """Return what hears how many bytes of a new model are ready; it ends a load at shutdown."""

        def tell(done: int, total: int) -> None:
            if self._closing:
                raise DaemonError("homebox is shutting down")
            text = f"{done >> 20} of {total >> 20} MiB of weights are ready"
            switch.at(switch.stage, text, done, total)

        return tell

    @contextlib.asynccontextmanager
    async def _swap(self) -> AsyncIterator[None]:
        """Keep away, for a block, who needs the served model to stay the same."""
        async with self._lock:
            self._swapping = True
            try:
                yield
            finally:
                self._swapping = False

    def _serve(self, new: Hosted) -> None:
        """Let new requests go to a model."""
        new.current = True
        self._hosted, self._about = new, new.about
        if self._door is not None:
            self._door.open(new.service)

    async def _remember(self, choice: Choice) -> str:
        """Write down what the next start serves; return what speaks against it, or nothing."""
        try:
            await asyncio.to_thread(write_choice, self._state.path, choice)
        except StateError as error:
            return f"the next start serves {choice.before} again, because {error}"
        if "model.path" in self._config.given:
            return "the command line or the environment of this daemon named another model; a " + (
                "start that is told so again serves that one"
            )
        return ""

    def _report(self, changed: bool, pause: float, problem: str) -> dict[str, Any]:
        """Say what is served now; `changed` is false if it was all the time."""
        hosted = self.hosted
        weights = hosted.served.current
        lines = [
            f"{hosted.about.model} ({short(weights)}) is served {'now' if changed else 'already'}"
        ]
        lines += [line for line in (hosted.about.kept, *hosted.about.plan) if line]
        bare = bare_line(self._state.lineage, hosted.about.base)
        return {
            **hosted.about.as_json(),
            "weights": weights,
            "changed": changed,
            "pause_s": round(pause, 3),
            "lines": [*lines, *([bare] if bare else []), *([problem] if problem else [])],
        }

    async def _drop(self) -> None:
        """Stop what serves, and give its memory back."""
        hosted, self._hosted = self._hosted, None
        if hosted is not None:
            await stopped(hosted)
            del hosted
            await asyncio.to_thread(gc.collect)


def _alike(one: Config, other: Config) -> bool:
    """Whether a model would be loaded in the same way."""
    a, b = one.model, other.model
    return (a.weights, a.context) == (b.weights, b.context)
