"""How a model takes the place of another one where memory does not hold both.

The one idea: new requests wait at the door, running answers end, the old model goes, and only then
the new one is loaded. Invariant: if that one cannot be loaded, the old one is loaded again, or the
built-in one; requests wait no longer than that takes, and are refused if nothing can be served.
"""

import logging
import time
import weakref

from homebox.config import Config
from homebox.errors import BusyError, DaemonError, HomeboxError
from homebox.hosting.hosting import Hosting
from homebox.hosting.progress import Switch
from homebox.hosting.retiring import DRAIN, SWITCHED, freed

log = logging.getLogger("homebox.hosting")


async def replace(hosting: Hosting, config: Config, last: Config, switch: Switch) -> float:
    """Let the model that serves go, and serve another one; gives for how long requests waited.

    `last` is served where neither that one nor the old one can be loaded. Raises BusyError, and
    nothing was changed, if answers do not end, and else what made loading fail. To be called within
    `hosting.swap()`.
    """
    assert hosting.door is not None
    hosting.door.close()
    closed, before = time.monotonic(), hosting.hosted.config
    try:
        await _empty(hosting, switch)
    except BaseException:
        hosting.door.open(hosting.hosted.service)
        raise
    switch.at("load", "loading; new requests wait")
    failure = await _first_that_loads(hosting, [config, before, last], switch)
    hosting.serve(hosting.hosted)
    pause = time.monotonic() - closed
    if failure is not None:
        raise failure
    return pause


async def _empty(hosting: Hosting, switch: Switch) -> None:
    """Wait for running answers and let the old model go."""
    assert hosting.door is not None
    service = hosting.hosted.service
    switch.at("drain", "waiting for running answers; memory does not hold both models")
    if not await hosting.door.left(service, DRAIN):
        raise BusyError(
            f"{hosting.door.users(service)} answers are still running after {DRAIN:.0f} seconds, "
            "and memory does not hold both models; nothing was changed, try again later"
        )
    await hosting.hosted.stop_learning(SWITCHED)
    del service
    model = weakref.ref(hosting.hosted.model)
    await hosting.drop()
    await freed(model)


async def _first_that_loads(
    hosting: Hosting, candidates: list[Config], switch: Switch
) -> HomeboxError | None:
    """Load the first candidate that can be, ready to serve; return what went wrong before."""
    first: HomeboxError | None = None
    for candidate in candidates:
        try:
            await hosting.install(candidate, switch.loaded)
            return first
        except Exception as error:
            if hosting.ending:
                raise
            log.warning("%s cannot be served: %s", candidate.model.path, error)
            known = error if isinstance(error, HomeboxError) else HomeboxError(repr(error))
            first = first or known
            switch.at("load", "the new model cannot be loaded; going back")
    assert hosting.door is not None and first is not None
    hosting.door.refuse(DaemonError(f"no model can be served: {first}; restart homebox"))
    raise first
