"""A daemon in a process of its own, to be killed: `python -m tests.crash.daemon_process ...`.

The disk is made slow, so that there is a time between an answer and its row in the ledger; with
`--careless` the server does not wait for the row, which is what the tests must notice.
"""

import argparse
import asyncio
import threading
from concurrent.futures import Future

from homebox import daemon
from homebox.api.exchange import Exchange
from homebox.config import load_config
from homebox.memory.ledger import Ledger
from homebox.memory.turns import Turn
from tests.api import fake_learner

SLOWNESS = 0.03  # seconds of every write


def slow_submit(self: Ledger, turn: Turn) -> "Future[str]":
    late: Future[str] = Future()

    def write() -> None:
        try:
            late.set_result(original_submit(self, turn).result())
        except Exception as error:
            late.set_exception(error)

    threading.Timer(SLOWNESS, write).start()
    return late


original_submit = Ledger.submit


async def write_without_waiting(self: Exchange, reasons: list[str]) -> None:
    if not self.finished:
        self.finished = True
        self.lease.release()
        self.ledger.submit(self._turn(self.choices[0], reasons[0]))
        await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--careless", action="store_true")
    args = parser.parse_args()
    overrides = {"paths.state": args.state, "server.port": 0, "server.require_token": False}
    if args.model == "fake":
        overrides["learning.steps"] = 20
        parts = fake_learner.parts()
    else:
        overrides["model.path"] = args.model
        parts = daemon.real_parts()
    Ledger.submit = slow_submit  # type: ignore[method-assign]
    if args.careless:
        Exchange._write = write_without_waiting  # type: ignore[method-assign]
    daemon.serve(load_config(None, overrides, {}), parts)


if __name__ == "__main__":
    main()
