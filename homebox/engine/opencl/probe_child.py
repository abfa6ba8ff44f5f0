"""A short-lived process that compiles and runs trial kernels, so that a driver may die in it.

One idea: a trial is bytes in, bytes out; what is right is not known here. Each line on stdin is a
request as JSON, each answer one line on the pipe that stdout was when the process began: drivers
that print something cannot be mistaken for it. Invariant: nothing is kept on disk.
"""

import base64
import contextlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_PLACE = re.compile(r"^\S+:\d+:\d+( <[^>]*>)?: ")
REASON = 600  # characters of a compiler's complaint that are passed on


def find_device(cl: Any, platform: str, version: str, name: str, ordinal: int) -> Any:
    """Return the device; `ordinal` counts those of equal names on platforms of equal names.

    Raises LookupError if there is none.
    """
    seen = 0
    for place in cl.get_platforms():
        if (place.name, place.version) != (platform, version):
            continue
        for device in _devices(cl, place):
            if device.name == name:
                if seen == ordinal:
                    return device
                seen += 1
    raise LookupError(f"no device {name!r} number {ordinal} on platform {platform!r}")


def _devices(cl: Any, platform: Any) -> Iterator[Any]:
    with contextlib.suppress(cl.Error):  # a platform without any device may say so by an error
        yield from platform.get_devices()


class Trials:
    """A device with a queue, on which trial kernels run one after another."""

    def __init__(self, cl: Any, device: Any) -> None:
        self._cl = cl
        self._context = cl.Context([device])
        self._queue = cl.CommandQueue(self._context, device)

    def run(
        self,
        source: str,
        options: list[str],
        given: bytes,
        size: int,
        grid: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> bytes:
        """Compile `source` and run its kernel `probe` once; gives the `size` bytes it wrote.

        `grid` is (work-items, work-items of a group). Raises what pyopencl raises.
        """
        cl, flags = self._cl, self._cl.mem_flags
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers' remarks
            program = cl.Program(self._context, source).build(options=options, cache_dir=False)
        first = cl.Buffer(self._context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=given)
        # What the kernel leaves out must be seen as such.
        found = bytearray(b"\xa5" * size)
        second = cl.Buffer(self._context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=found)
        kernel = cl.Kernel(program, "probe")
        kernel.set_args(first, second)
        cl.enqueue_nd_range_kernel(self._queue, kernel, *grid)
        cl.enqueue_copy(self._queue, found, second, is_blocking=True)
        return bytes(found)


def answer(trials: Trials, request: dict[str, Any]) -> dict[str, Any]:
    """Run one request; gives {"found": base64} or {"failed": text}."""
    try:
        found = trials.run(
            request["source"],
            request["options"],
            base64.b64decode(request["given"]),
            request["size"],
            (tuple(request["items"]), tuple(request["group"])),
        )
    except Exception as error:  # whatever a driver says is a reason to refuse, not to stop
        return {"failed": first_complaint(str(error)) or type(error).__name__}
    return {"found": base64.b64encode(found).decode("ascii")}


def first_complaint(text: str) -> str:
    """Return the first error of a build log, or all of it in one line if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if (at := line.find("error: ")) >= 0:
            # The place in a temporary file, before or after the word, tells nobody anything.
            return _PLACE.sub("", line[at + len("error: ") :])[:REASON]
    return "; ".join(lines)[:REASON]


def main() -> int:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    where = json.loads(sys.stdin.readline())

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        import pyopencl as cl

        trials = Trials(cl, find_device(cl, **where))
    except Exception as error:
        say({"failed": first_complaint(str(error))})
        return 1
    say({"ready": True})
    for line in sys.stdin:
        say(answer(trials, json.loads(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
