"""The model that serves: how it comes into its place, is kept there, and gives it up.

The one idea: one model serves at a time. New requests go to it from one instant on; whoever works
with it holds it steady, and a switch to another one waits for that. Invariant: every model that was
loaded is stopped again, also if it never served.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Mapping

from homebox.api.acting import Lessons
from homebox.api.door import Door
from homebox.api.metrics import Metrics
from homebox.api.service import Service
from homebox.config import Config
from homebox.errors import BusyError, DaemonError, HomeboxError
from homebox.hosting.chosen import as_chosen, choice_for, with_model
from homebox.hosting.hosted import About, Hosted
from homebox.hosting.loader import Loader
from homebox.hosting.notifier import Notifier
from homebox.hosting.parts import Parts, loading
from homebox.hosting.progress import Switch
from homebox.hosting.retiring import Retiring, stopped
from homebox.memory.state import State
from homebox.model.prefixes.prefix_folder import forget_kept_prompts


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
        self.metrics = Metrics()
        self._loader = Loader(config, state, parts, notifier, self.metrics, lessons)
        self.serving: Hosted | None = None  # None until the first one is loaded, and in a switch
        self._about: About | None = None  # of what serves, or of what did until a moment ago
        self.door: Door[Service] | None = None
        self.retiring = Retiring()
        self._lock = asyncio.Lock()
        self._swapping = False
        self.ending = False  # the daemon stops
        self.switch: Switch | None = None
        self.trouble = ""  # why something else is served than was asked for

    # -- what is served -------------------------------------------------------------------------

    @property
    def hosted(self) -> Hosted:
        """What serves; raises BusyError while there is nothing."""
        if self.serving is None:
            raise BusyError("homebox is switching to another model; try again in a moment")
        return self.serving

    @property
    def about(self) -> About:
        """What is known of the model that serves, or did until a moment ago."""
        assert self._about is not None, "nothing was ever served"
        return self._about

    def loaded(self) -> list[Hosted]:
        """List the model that serves, if any, and those whose last answers still run."""
        return [each for each in (self.serving, *self.retiring) if each is not None]

    async def forget_prefixes(self) -> None:
        """Let go of kept prompts, wherever a model is loaded, and of those of all others."""
        for hosted in self.loaded():
            await hosted.forget_prefixes()
        await asyncio.to_thread(forget_kept_prompts)

    # -- start and end --------------------------------------------------------------------------

    async def begin(self) -> Hosted:
        """Load what the next start was to serve, or what was served before, and say why."""
        first: HomeboxError | None = None
        for config in self._candidates():
            try:
                await self.install(config, loading())
            except HomeboxError as error:
                first = first or error
                continue
            self.serve(self.hosted)
            if first is not None:
                self.trouble = f"{self.about.model} is served instead, because: {first}"
            return self.hosted
        assert first is not None
        raise first

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

    def through(self, door: Door[Service]) -> None:
        """Use the door of the server for switches."""
        self.door = door

    def closing(self) -> None:
        """Break off the loading of a model, if any, because the daemon stops."""
        self.ending = True

    async def close(self) -> None:
        """Stop everything at once; whoever wants answers to end waits before."""
        self.ending = True
        await self.retiring.close()
        await self.drop()

    # -- keeping what serves in its place -------------------------------------------------------

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
            if self.serving is not before:
                raise BusyError("homebox has just switched to another model; ask again")
            yield before

    @contextlib.asynccontextmanager
    async def swap(self) -> AsyncIterator[None]:
        """Keep away, for a block, who needs the served model to stay the same."""
        async with self._lock:
            self._swapping = True
            try:
                yield
            finally:
                self._swapping = False

    def refuse_in_swap(self) -> None:
        """Raise BusyError where the served model is about to change."""
        if self._swapping:
            raise BusyError("homebox is switching to another model; try again in a moment")

    # -- the steps of a change ------------------------------------------------------------------

    async def load(
        self, config: Config, taken: Mapping[str, int], tell: Callable[[int, int], None]
    ) -> Hosted:
        """Load a model beside others that have `taken` bytes; its thread does not run yet.

        `tell` hears how many bytes of how many are ready. Raises DaemonError if the daemon stops.
        """

        def heard(done: int, total: int) -> None:
            if self.ending:
                raise DaemonError("homebox is shutting down")
            tell(done, total)

        return await self._loader.load(config, taken, heard, alone=self.serving is None)

    async def install(self, config: Config, tell: Callable[[int, int], None]) -> None:
        """Load a model where none serves, and start it; requests do not go to it yet.

        One that cannot be started leaves nothing behind.
        """
        try:
            self.serving = await self.load(config, {}, tell)
            await self.serving.start()
        except Exception:
            await self.drop()
            raise

    def serve(self, new: Hosted) -> None:
        """Let new requests go to a model."""
        new.current = True
        self.serving, self._about = new, new.about
        if self.door is not None:
            self.door.open(new.service)

    async def drop(self) -> None:
        """Stop what serves, and give its memory back."""
        hosted, self.serving = self.serving, None
        if hosted is not None:
            await stopped(hosted)
            del hosted
            await asyncio.to_thread(gc.collect)
