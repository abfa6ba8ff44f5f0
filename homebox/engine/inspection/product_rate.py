"""How fast a device multiplies matrices with the engine's own kernels, as programs do.

One square product in float32, captured, compiled and checked like any other, then timed by the
device's clock; the best of a few runs counts. Run as a program it prints the rate of the named
device, in a process of its own, because a driver may crash on a kernel as on a probe.
"""

import json
import os
import sys
from collections.abc import Sequence

import numpy as np

from homebox.engine.graph.device import using
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Spec, capture
from homebox.engine.runtime.devices import device_named
from homebox.errors import DeviceError

_RUNS = 4
_CLOSE = 1e-3  # of the largest result, far above rounding and far below a wrong element
SIZES = {"gpu": 2048, "cpu": 512}  # by kind of device: enough work, but not seconds


def product_rate(name: str, size: int) -> float:
    """Return 1e9 operations a second of a product of two `size` x `size` matrices in float32.

    Raises DeviceError if the device cannot be used or computes a wrong product.
    """
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    with using(device_named(name)):
        weight = Tensor.from_numpy(b, frozen=True)
        program = capture(lambda x: x.linear(weight), {"x": Spec((size, size))})
        (found,) = program(x=a)
        wanted = a @ b.T
        if not np.allclose(found, wanted, rtol=0, atol=_CLOSE * float(np.abs(wanted).max())):
            raise DeviceError(f"{name} computes a wrong product of {size} x {size} matrices")
        times = [sum(each.nanoseconds for each in program.profile()) for _ in range(_RUNS)]
    return 2 * size**3 / min(times)


def request(name: str, kind: str) -> list[str]:
    """Return the arguments of Python that run `main` for a device."""
    return ["-m", __name__, name, str(SIZES.get(kind, SIZES["cpu"]))]


def main(arguments: Sequence[str]) -> int:
    """Print the rate of a device as JSON."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        rate = product_rate(arguments[0], int(arguments[1]))
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    json.dump({"gflops": rate}, answers)
    answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
