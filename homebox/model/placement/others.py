"""What another model has of the devices: it is in the way, or is given back before we come.

The one idea: a switch of models asks twice. First with the other model in its place, so that both
can run for a while; if that does not fit, as if the other one were gone. Invariant: how the numbers
of a model are kept is chosen as if it were alone, so that it does not depend on who was there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from homebox.model.placement.devices import MIB, Choice, Room


@dataclass(frozen=True)
class Others:
    """Bytes that other models of this process have, by device name.

    `stays`: they are there while the new model is loaded. Else what they have counts as free.
    """

    bytes: Mapping[str, int] = field(default_factory=dict)
    stays: bool = True

    def alone(self, room: Room, memory: int) -> Room:
        """Return a room as it will be without the others; `memory` is its budget in MiB, or 0."""
        taken = self.bytes.get(room.device.name, 0)
        if not taken or room.free is None:
            return room
        free = room.free + taken
        pool = None if room.pool is None else room.pool + taken
        return replace(room, free=min(free, memory * MIB) if memory else free, pool=pool)

    def room(self, room: Room, memory: int) -> Room:
        """Return a room as the new model finds it.

        A device counts what was taken of its budget; on the host that is done here.
        """
        if not self.stays:
            return self.alone(room, memory)
        if not (memory and room.host) or room.free is None:
            return room
        left = max(memory * MIB - self.bytes.get(room.device.name, 0), 0)
        return replace(room, free=min(room.free, left))

    def choice(self, choice: Choice, memory: int) -> Choice:
        """Return a choice of devices with their rooms as the new model finds them."""
        return replace(choice, rooms=tuple(self.room(room, memory) for room in choice.rooms))


NOBODY = Others()
