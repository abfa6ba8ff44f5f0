"""The switch to another model: which way it goes, and what is kept of it.

The one idea: a switch first tries to load the new model beside the old one. If memory allows that,
nobody waits: new requests go to the new model from one instant on, and the old one goes when its
last answer is over. Else it is replaced (`replacing.py`). What `homebox use` was told is written
down when the new model serves.

Invariant: a model that cannot be opened or does not fit is refused before anything has changed.
"""

import asyncio
from typing import Any

from homebox.config import Config
from homebox.errors import BusyError, HomeboxError, OutOfDeviceMemoryError, StateError
from homebox.hosting.chosen import Choice, name_of, with_model, write_choice
from homebox.hosting.hosted import About, Hosted
from homebox.hosting.hosting import Hosting
from homebox.hosting.loader import prepared
from homebox.hosting.memory import resident
from homebox.hosting.parts import Parts
from homebox.hosting.progress import Switch, Tell
from homebox.hosting.replacing import replace
from homebox.hosting.retiring import DRAIN, SWITCHED, stopped
from homebox.hosting.telling import outcome_of
from homebox.hub.catalogue import BUILT_IN
from homebox.memory.state import State


class Switching:
    """The switches of one daemon; belongs to its event loop."""

    def __init__(self, config: Config, state: State, parts: Parts, hosting: Hosting) -> None:
        """`config` is as it was read, without the choice of `homebox use`."""
        self._config = config
        self._state = state
        self._parts = parts
        self._hosting = hosting

    async def use(self, asked: str, tell: Tell, kept: str = "", context: int = 0) -> dict[str, Any]:
        """Serve another model, and at the next start too; gives what became of it.

        `kept` says how weights are kept and `context` how many tokens there are, where these are
        not to be as configured.
        Raises ModelNotFoundError, ModelFormatError, OutOfDeviceMemoryError and the like, BusyError
        if a switch is under way or answers do not end; the old model then still serves.
        """
        hosting = self._hosting
        if hosting.switch is not None:
            raise BusyError(f"homebox is switching to {hosting.switch.name} already; wait for it")
        switch = hosting.switch = Switch(asked, tell)
        name = ""
        try:
            name = switch.name = await asyncio.to_thread(name_of, self._config, asked)
            if hosting.retiring:
                switch.at("wait", "answers of the model before this one are still running")
                if not await hosting.retiring.over(DRAIN):
                    raise BusyError("answers of an earlier model are still running; try again")
            choice = self._choice(name, kept, context)
            config = with_model(self._config, name, kept, context)
            found = await self._switch_to(choice, config, switch)
        except HomeboxError as error:
            if name:
                hosting.trouble = f"the switch to {name} failed: {error}"
            raise
        finally:
            hosting.switch = None
        hosting.trouble = ""
        return found

    def _choice(self, name: str, kept: str, context: int) -> Choice:
        old = self._hosting.hosted.about
        return Choice(name, old.name or old.path, self._config.configured_model, kept, context)

    async def _switch_to(self, choice: Choice, config: Config, switch: Switch) -> dict[str, Any]:
        hosting = self._hosting
        old = hosting.hosted.about
        base = await self._checked(config, old)
        if base == old.base and _alike(config, hosting.hosted.config):
            return self._outcome(False, 0.0, await self._remember(choice))
        new = await self._beside(config, old, switch)
        if new is None:
            async with hosting.swap():
                pause = await replace(hosting, config, with_model(self._config, BUILT_IN), switch)
                problem = await self._remember(choice)
            return self._outcome(True, pause, problem)
        async with hosting.swap():
            before = hosting.hosted
            await before.stop_learning(SWITCHED)
            hosting.serve(new)
            problem = await self._remember(choice)
        assert hosting.door is not None
        hosting.retiring.begin(before, hosting.door)
        return self._outcome(True, 0.0, problem)

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
            new = await self._hosting.load(config, old.taken, switch.loaded)
            await new.start()
            await prepared(new, switch)
        except BaseException as error:
            if new is not None:
                await stopped(new)
            if isinstance(error, OutOfDeviceMemoryError) and self._parts.fit is not None:
                return None
            raise
        return new

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

    def _outcome(self, changed: bool, pause: float, problem: str) -> dict[str, Any]:
        return outcome_of(self._hosting.hosted, self._state.lineage, changed, pause, problem)


def _alike(one: Config, other: Config) -> bool:
    """Whether a model would be loaded in the same way."""
    a, b = one.model, other.model
    return (a.weights, a.context) == (b.weights, b.context)
