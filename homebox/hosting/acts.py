"""What the owner has a running box do: learn, go back, serve another model, decide, forget.

The one idea: whatever changes what is served waits for a switch to another model to end, and stops
a learning run that would promote what is no longer meant. Invariant: what cannot be done is refused
before a run is stopped for it.
"""

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

from homebox.config import Config
from homebox.errors import UsageError
from homebox.hosting.hosted import Hosted
from homebox.hosting.hosting import Hosting
from homebox.hosting.parts import Outcome, Parts, most_rank, plain
from homebox.hosting.progress import Tell
from homebox.hosting.swapping import timed
from homebox.hosting.switching import Switching
from homebox.learning.lessons import deciding
from homebox.learning.lessons.forgetting import said_target
from homebox.memory.lineage import Move
from homebox.memory.state import State
from homebox.scheduler import Learning, run_inline

ROLLED_BACK = "learning was stopped by a rollback; nothing was promoted"
FORGOTTEN = "learning was stopped, as something is to be forgotten; nothing was promoted"
PAUSED = "paused by the owner"
STOPPED = (
    "learning was stopped by the owner; nothing was promoted, and what was done is kept: "
    '"homebox learn --now" goes on from there'
)
IMPORTED = "learning was stopped by an import; nothing was promoted"


class Acts:
    """What can be asked of one daemon; make it in the daemon's event loop."""

    def __init__(self, config: Config, state: State, hosting: Hosting, parts: Parts) -> None:
        self._config, self._state, self._hosting, self._parts = config, state, hosting, parts
        self._switching = Switching(config, state, parts, hosting)
        self._loop = asyncio.get_running_loop()

    async def learn(self, tell: Callable[[Any], None]) -> Any:
        """Run one learning run between the answers; gives its report, after the swap."""
        hosted = self._hosting.hosted
        self._hosting.refuse_in_swap()
        return await _end_of(hosted.engine.learn(self._learning(hosted)), tell)

    async def steer(self, order: str) -> dict[str, Any]:
        """Pause, resume or stop the learning run; gives whether one runs and why it waits."""
        engine = self._hosting.hosted.engine
        if order == "pause":
            learning = engine.pause_learning(PAUSED)
        elif order == "resume":
            learning = engine.resume_learning()
        elif order == "stop":
            learning = engine.stop_learning(STOPPED)
        else:
            raise UsageError(f'learning can be told "pause", "resume" or "stop", not {order!r}')
        if learning is None:
            raise UsageError('nothing is being learned now; "homebox status" says when it will be')
        return {"order": order, "paused": learning.pause_reason, "at": plain(learning.progress)}

    async def run_job(self, job: Any, tell: Callable[[Any], None]) -> str:
        """Run a learning job again between the answers; gives the weights hash. Serves nothing."""
        from homebox.learning.jobs.job import execute

        hosted = self._hosting.hosted
        steps = execute(cast(Any, hosted.model), self._state.store, job)
        return str(await _end_of(hosted.engine.learn(steps), tell))

    async def preview(self) -> Any:
        """Find the lessons without learning them."""
        steps = self._run_learner(self._hosting.hosted, dry_run=True)
        return await asyncio.to_thread(run_inline, steps, lambda _: None)

    async def rollback(self, name: str, reason: str) -> Move:
        """Serve earlier weights; a running learning run is stopped first."""
        async with self._hosting.steady() as hosted:
            lineage, base = self._state.lineage, hosted.model.base_hash
            target = await asyncio.to_thread(lineage.resolve, base, name)
            await hosted.stop_learning(ROLLED_BACK)
            move = await asyncio.to_thread(lineage.rollback, base, target, reason)
            await hosted.reload()
            return move

    async def import_adapter(self, path: str, name: str, reason: str, promote: bool) -> Any:
        """Keep an adapter's files as a checkpoint, and serve it if `promote`."""
        from homebox.learning.jobs.exchange import Base, import_adapter

        async with self._hosting.steady() as hosted:
            model = hosted.model
            base = Base(model.config, model.base_hash, hosted.about.model)
            if promote:
                await hosted.stop_learning(IMPORTED)
            most = most_rank(self._config)
            found = await asyncio.to_thread(
                import_adapter, self._state, base, Path(path), name, reason, promote, most
            )
            if promote:
                await hosted.reload()
            return found

    async def reload(self) -> str:
        """Serve what HEAD names; gives its hash."""
        async with self._hosting.steady() as hosted:
            return await hosted.reload()

    async def use(self, asked: str, tell: Tell, kept: str, context: int) -> dict[str, Any]:
        """Serve another model; see `Switching.use`."""
        return await self._switching.use(asked, tell, kept, context)

    async def decide(self, action: str, prefix: str) -> dict[str, Any]:
        """Approve or reject a lesson."""
        return await asyncio.to_thread(deciding.decide, self._state.ledger, action, prefix)

    async def edit(self, prefix: str, value: str) -> dict[str, Any]:
        """Give a lesson's topic another value."""
        return await asyncio.to_thread(deciding.edit, self._state.ledger, prefix, value)

    async def remember(self, text: str) -> dict[str, Any]:
        """Keep what the owner said outright."""
        return await asyncio.to_thread(deciding.remember, self._state.ledger, text)

    async def forget(
        self, name: str, everywhere: bool = False, wait: bool = True
    ) -> dict[str, Any]:
        """Forget for good; a running learning run, which has read it, is stopped first.

        See `deciding.forgotten`. Without `wait`, a switch to another model is not waited for, but
        raises BusyError: who asks in a chat is one of those that it waits for.
        """
        async with self._hosting.steady(wait) as hosted:
            ledger, lineage = self._state.ledger, self._state.lineage
            # Or refuse now:
            await asyncio.to_thread(deciding.checked, ledger, name, everywhere)
            await hosted.stop_learning(FORGOTTEN)
            found = await asyncio.to_thread(deciding.forgotten, ledger, lineage, name, everywhere)
            if everywhere:
                await hosted.reload()
                await hosted.let_go(found["let_go"]["weights"])
            await self._hosting.forget_prefixes()
            return found

    def forget_from_chat(self, name: str) -> dict[str, Any]:
        """Do what `forget` does for a command in a chat, on a thread that may wait."""
        work = self.forget(name, wait=False)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def delete(self, name: str) -> dict[str, Any]:
        """Forget a turn or a conversation, as `forget` does."""
        async with self._hosting.steady() as hosted:
            await asyncio.to_thread(said_target, self._state.ledger, name)  # or refuse now
            await hosted.stop_learning(FORGOTTEN)
            state = self._state
            found = await asyncio.to_thread(deciding.deleted, state.ledger, state.lineage, name)
            await self._hosting.forget_prefixes()
            return found

    def _run_learner(self, hosted: Hosted, dry_run: bool = False) -> Generator[Any, None, Any]:
        state = self._state
        return self._parts.learn(
            hosted.model, state.ledger, state.store, state.lineage, self._config, dry_run=dry_run
        )

    def _learning(self, hosted: Hosted) -> Generator[Any, None, Any]:
        """Learn, and swap in the same step in which HEAD moved.

        What is served then was placed before. If it is not to be served after all, it goes.
        """
        placed: list[str] = []

        def place(weights: str, step: Any) -> Generator[Any, None, None]:
            if not hosted.served.has(weights):
                placed.append(weights)
                yield from hosted.placing(weights, step)

        report: Outcome
        try:
            report, begun = yield from timed(self._run_learner(hosted), place)
        except BaseException:
            hosted.served.let_go(placed)
            raise
        if report.promoted:
            # Since that step began, which also moved HEAD, nobody was answered.
            swap = hosted.swap(begun)
            if swap is not None and isinstance(data := getattr(report, "data", None), dict):
                data["swap"] = swap
            hosted.tell_notes(report)
        hosted.served.let_go(placed)  # but not what is served now
        return report


async def _end_of(learning: Learning, tell: Callable[[Any], None]) -> Any:
    """Wait for what a run gives; `tell` hears how far it is."""
    unlisten = learning.listen(tell)
    try:
        return await asyncio.wrap_future(learning.result)
    finally:
        unlisten()
