"""Pages that are shared, copied and zeroed on a device give the answers that they give alone."""

from typing import TYPE_CHECKING

from homebox.model import load
from tests.unit.test_prefixes import answer, prompt

if TYPE_CHECKING:
    from homebox.engine.opencl.backend import OpenClDevice


def test_prefixes_change_no_bit_on_a_device(cl_device: "OpenClDevice") -> None:
    model = load("tiny", 256, 2, kv="f16", device=cl_device.name, kv_memory=1)
    model.stop_ids, model.speculation.on = frozenset(), False
    ids = prompt(200)
    wanted = answer(model, ids, owner=None)
    for cached in (0, 199):
        assert answer(model, ids) == (*wanted[:2], cached)
    other = ids[:130] + prompt(30, 3)
    wanted = answer(model, other, owner=None)
    assert answer(model, other) == (*wanted[:2], 130)
    for seed in range(4, 10):
        ids = prompt(200, seed)
        assert answer(model, ids, owner=str(seed % 2))[:2] == answer(model, ids, owner=None)[:2]
