"""What a run is told: a program's inputs and its run-time integers, in one piece of memory.

The one idea: on a device with memory of its own all of it is one transfer per run, however many
inputs there are; in host memory the arrays are the memory itself, and nothing is sent.
"""

from collections.abc import Mapping

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import ALIGNMENT, Buffer, Device, HostBlock
from homebox.engine.graph.dtype import DType


class InputMemory:
    """The inputs `sizes` (elements and type by name), and `variables` integers in front of them.

    `buffers` is where kernels find them. Write into `arrays` (flat, by name) and set `changed`.
    """

    def __init__(
        self, sizes: Mapping[str, tuple[int, DType]], variables: int, device: Device
    ) -> None:
        count = max(variables, 1)
        places: dict[str, int] = {}
        end = _rounded(count * dt.i32.size)
        for name, (elements, dtype) in sizes.items():
            places[name] = end
            end += _rounded(elements * dtype.size)
        self._whole = Buffer(end, dt.u8, device=device)
        on_host = isinstance(self._whole.block, HostBlock)
        self._mirror = self._whole.array if on_host else np.zeros(end, np.uint8)
        self._sent = on_host
        self.changed = True
        self.variables = self._whole.part(0, count, dt.i32)
        self._integers = self._mirror[: count * dt.i32.size].view(np.int32)
        self.buffers: dict[str, Buffer] = {}
        self.arrays: dict[str, np.ndarray] = {}
        for name, (elements, dtype) in sizes.items():
            at = places[name]
            self.buffers[name] = self._whole.part(at, elements, dtype)
            raw = self._mirror[at : at + elements * dtype.size]
            self.arrays[name] = raw.view(dtype.to_numpy())

    def set_variable(self, number: int, value: int) -> None:
        """Give a run-time integer its value."""
        if self._integers[number] != value:
            self._integers[number] = value
            self.changed = True

    def send(self) -> None:
        """Make the device see what was written since the last time."""
        if self.changed and not self._sent:
            self._whole.write(self._mirror)
        self.changed = False


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
