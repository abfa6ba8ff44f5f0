"""A daemon that dies in a switch: `python -m tests.crash.switch_process STATE MODEL POINT`.

MODEL is what it serves at first, POINT where it kills itself once it is asked to serve another one.
With `--careless` the choice is written over the old one in place, which is what the tests must
notice.
"""

import argparse
import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homebox import daemon
from homebox.config import load_config
from homebox.hosting import chosen, hosting, retiring, switching
from tests.api.model_files import MEMORY, Shelf

POINTS = ("planned", "loading", "loaded", "dropped", "writing", "written")


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    """Die where `function` has done its work."""

    def run(*arguments: Any, **options: Any) -> None:
        function(*arguments, **options)
        die()

    return run


def arm(shelf: Shelf, point: str) -> None:
    """Prepare death; called once the daemon serves its first model."""
    if point == "dropped":
        stop = retiring.stopped

        async def stopped(hosted: Any) -> None:
            await stop(hosted)
            die()

        hosting.stopped = retiring.stopped = stopped
    elif point == "writing":
        # The file is complete and synced under its other name, and not yet renamed.
        rename = Path.rename

        def dying(self: Path, target: Any) -> Any:
            return die() if Path(target).name == chosen.FILE else rename(self, target)

        Path.rename = dying  # type: ignore[method-assign, assignment]
    elif point == "written":
        switching.write_choice = after(switching.write_choice)


class Doomed(Shelf):
    """A shelf whose daemon dies when a second model is planned or loaded."""

    def __init__(self, point: str) -> None:
        super().__init__(MEMORY)
        self.point = point

    def fit(self, *arguments: Any, **options: Any) -> str:
        found = super().fit(*arguments, **options)
        if self.point == "planned":
            die()
        return found

    def load(self, *arguments: Any, **options: Any) -> Any:
        first = not self.loaded
        if self.point == "loading" and not first:
            # What memory refuses is not loading yet.
            super().load(*arguments, **options)
            die()
        model = super().load(*arguments, **options)
        if first:
            arm(self, self.point)
        elif self.point == "loaded":
            die()
        return model


def carelessly(path: Path, data: bytes) -> None:
    """Write over a file in place, as nobody should, and die half-way."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        os.fsync(file.fileno())
        die()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state")
    parser.add_argument("model")
    parser.add_argument("point", choices=POINTS)
    parser.add_argument("--careless", action="store_true")
    args = parser.parse_args()
    overrides = {"paths.state": args.state, "server.port": 0, "model.path": args.model}
    overrides["server.require_token"] = False
    config = load_config(None, overrides, {"HOMEBOX_CONFIG": ""})
    config = dataclasses.replace(config, given=frozenset(), configured_model=args.model)
    if args.careless:
        chosen.replace_file = carelessly
    daemon.serve(config, Doomed(args.point).parts())


if __name__ == "__main__":
    main()
