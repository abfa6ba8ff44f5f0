"""How a model comes: it is loaded off the event loop, and made ready before anybody waits for it.

The one idea: what the first answers would wait for is done while another model still answers.
Invariant: while nothing serves, the service manager hears that we live.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from homebox.api.acting import Lessons
from homebox.api.metrics import Metrics
from homebox.config import Config
from homebox.errors import EngineError, OutOfDeviceMemoryError
from homebox.hosting.chosen import listed
from homebox.hosting.hosted import Hosted
from homebox.hosting.notifier import Notifier
from homebox.hosting.parts import Parts
from homebox.hosting.progress import Switch
from homebox.memory.state import State

log = logging.getLogger("homebox.hosting")

PREPARING = 60.0  # seconds that a model that is loaded beside another one may take to get ready
LOADING = 600.0  # seconds of loading during which the service manager is told that all is well


class Loader:
    """Loads the models of one daemon."""

    def __init__(
        self,
        config: Config,
        state: State,
        parts: Parts,
        notifier: Notifier,
        metrics: Metrics,
        lessons: Lessons | None,
    ) -> None:
        """`config` is as it was read; `lessons` is who reads turns."""
        self._config = config
        self._parts = parts
        self._notifier = notifier
        self._around = (state, parts, notifier, metrics, lessons)

    async def load(
        self,
        config: Config,
        taken: Mapping[str, int],
        tell: Callable[[int, int], None],
        alone: bool,
    ) -> Hosted:
        """Load a model beside others that have `taken` bytes; its thread does not run yet.

        `alone`: no other one serves meanwhile.
        """
        beating = asyncio.ensure_future(self._beat()) if alone else None
        try:
            if self._parts.fit is None:
                model = await asyncio.to_thread(self._parts.load, config)
            else:
                model = await asyncio.to_thread(self._parts.load, config, taken, tell)
        finally:
            if beating is not None:
                beating.cancel()
        name = await asyncio.to_thread(listed, self._config, Path(config.model.path))
        return Hosted(model, config, name, *self._around)

    async def _beat(self) -> None:
        """Tell the service manager that we live while no engine thread can."""
        for _ in range(int(LOADING / 0.5)):
            self._notifier.beat()
            await asyncio.sleep(0.5)


async def prepared(new: Hosted, switch: Switch) -> None:
    """Make programs ready while the old model answers, so that the first answer need not wait."""
    switch.at("prepare", "making its programs ready")
    enough = time.monotonic() + PREPARING
    try:
        while time.monotonic() < enough:
            if not await asyncio.wrap_future(new.engine.call(new.model.prepare)):
                return
    except OutOfDeviceMemoryError:
        raise
    except EngineError as error:
        # The answer that needs it will meet the same error, and can tell.
        log.warning("%s cannot be made ready: %s", new.about.model, error)
